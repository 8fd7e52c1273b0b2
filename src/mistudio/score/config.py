"""Temporary."""

from mistudio.score.step import ScoreConfig

__all__ = ["ScoreConfig"]
