"""The files of an evaluation."""

METRICS_NAME = "metrics.json"
DENSITY_NAME = "density.parquet"
HISTOGRAMS_NAME = "histograms.json"
