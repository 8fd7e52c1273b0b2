"""The evaluate step."""

from mistudio.evaluate.step import DENSITY_NAME, METRICS_NAME, EvaluateConfig, check_subject, evaluate, numerics

__all__ = ["DENSITY_NAME", "METRICS_NAME", "EvaluateConfig", "check_subject", "evaluate", "numerics"]
