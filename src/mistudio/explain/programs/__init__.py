"""Programs: short expressions over a token in its context that predict where a feature fires, and how strongly."""

from mistudio.explain.programs.columns import Context
from mistudio.explain.programs.language import Branch, Flag, Member, Pair, Program

__all__ = ["Branch", "Context", "Flag", "Member", "Pair", "Program"]
