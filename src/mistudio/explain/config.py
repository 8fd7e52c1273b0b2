"""Temporary."""

from mistudio.explain.step import ExplainConfig

__all__ = ["ExplainConfig"]
