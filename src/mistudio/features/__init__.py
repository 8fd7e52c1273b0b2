"""What is known of features, to be read: the tables by their columns, and one view of all of them."""

from mistudio.features.about import About
from mistudio.features.feature_set import FeatureSet, Found, Limits, Neighbours
from mistudio.features.figures import Figure, is_control, main_figure
from mistudio.features.later import check_settings, differing, fullest_trials
from mistudio.features.paging import Condition, Order, Page, Row
from mistudio.features.schema import (
    ABOUT_NAME,
    CONTEXT_KINDS,
    CONTEXTS,
    EXPLANATIONS,
    FEATURES,
    FIRING_KINDS,
    LABELS,
    MAP,
    NEIGHBOURS,
    RELATIONS,
    SCORES,
    SCORES_SUMMARY_NAME,
    TOKEN_SETS,
    TRACES,
    TRIALS,
    Column,
    Table,
)

__all__ = [
    "ABOUT_NAME",
    "CONTEXTS",
    "CONTEXT_KINDS",
    "EXPLANATIONS",
    "FEATURES",
    "FIRING_KINDS",
    "LABELS",
    "MAP",
    "NEIGHBOURS",
    "RELATIONS",
    "SCORES",
    "SCORES_SUMMARY_NAME",
    "TOKEN_SETS",
    "TRACES",
    "TRIALS",
    "About",
    "Column",
    "Condition",
    "FeatureSet",
    "Figure",
    "Found",
    "Limits",
    "Neighbours",
    "Order",
    "Page",
    "Row",
    "Table",
    "check_settings",
    "differing",
    "fullest_trials",
    "is_control",
    "main_figure",
]
