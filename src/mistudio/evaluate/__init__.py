"""The evaluate step. Stability and probing are imported from their own modules: they bring in scikit-learn."""

from typing import TYPE_CHECKING

from mistudio.evaluate.config import EvaluateConfig
from mistudio.evaluate.names import DENSITY_NAME, HISTOGRAMS_NAME, METRICS_NAME

if TYPE_CHECKING:
    from mistudio.evaluate.step import check_subject, evaluate, numerics
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "step")

__all__ = [
    "DENSITY_NAME",
    "HISTOGRAMS_NAME",
    "METRICS_NAME",
    "EvaluateConfig",
    "check_subject",
    "evaluate",
    "numerics",
]
