"""The explain step: a description of each feature, made from documents that no scorer uses."""

from mistudio.explain.config import ExplainConfig
from mistudio.explain.step import JudgeSource, check_explainers, explain
from mistudio.explain.tables import (
    EXPLANATIONS_NAME,
    LABELS_NAME,
    SUMMARY_NAME,
    TOKEN_SETS_NAME,
    read_explanations,
)

__all__ = [
    "EXPLANATIONS_NAME",
    "LABELS_NAME",
    "SUMMARY_NAME",
    "TOKEN_SETS_NAME",
    "ExplainConfig",
    "JudgeSource",
    "check_explainers",
    "explain",
    "read_explanations",
]
