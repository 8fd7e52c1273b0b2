"""The find step."""

from mistudio.find.step import CONTEXTS_NAME, FEATURES_NAME, FIND_NAME, FindConfig, find_features

__all__ = ["CONTEXTS_NAME", "FEATURES_NAME", "FIND_NAME", "FindConfig", "find_features"]
