"""The find step."""

from mistudio.find.config import FindConfig, PassConfig
from mistudio.find.names import CONTEXTS_NAME, FEATURES_NAME, FIND_NAME, MAP_NAME, NEIGHBOURS_NAME
from mistudio.find.step import find_features, find_part

__all__ = [
    "CONTEXTS_NAME",
    "FEATURES_NAME",
    "FIND_NAME",
    "MAP_NAME",
    "NEIGHBOURS_NAME",
    "FindConfig",
    "PassConfig",
    "find_features",
    "find_part",
]
