"""The explain step: a description of each feature, made from documents that no scorer uses."""

from typing import TYPE_CHECKING

from mistudio.explain.config import ExplainConfig

if TYPE_CHECKING:
    from mistudio.explain.step import JudgeSource, check_explainers, explain, newest_explanations
    from mistudio.explain.tables import (
        EXPLANATIONS_NAME,
        LABELS_NAME,
        SUMMARY_NAME,
        TOKEN_SETS_NAME,
        read_explanations,
    )
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "step", "tables")

__all__ = [
    "EXPLANATIONS_NAME",
    "LABELS_NAME",
    "SUMMARY_NAME",
    "TOKEN_SETS_NAME",
    "ExplainConfig",
    "JudgeSource",
    "check_explainers",
    "explain",
    "newest_explanations",
    "read_explanations",
]
