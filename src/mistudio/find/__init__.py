"""The find step."""

from mistudio.find.config import FindConfig, PassConfig
from mistudio.find.step import find_features, find_part

__all__ = ["FindConfig", "PassConfig", "find_features", "find_part"]
