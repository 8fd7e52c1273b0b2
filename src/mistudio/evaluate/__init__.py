"""The evaluate step. Stability and probing are imported from their own modules: they bring in scikit-learn."""

from mistudio.evaluate.config import EvaluateConfig
from mistudio.evaluate.names import DENSITY_NAME, HISTOGRAMS_NAME, METRICS_NAME
from mistudio.evaluate.step import check_subject, evaluate, numerics

__all__ = [
    "DENSITY_NAME",
    "HISTOGRAMS_NAME",
    "METRICS_NAME",
    "EvaluateConfig",
    "check_subject",
    "evaluate",
    "numerics",
]
