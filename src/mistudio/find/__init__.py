"""The find step."""

from typing import TYPE_CHECKING

from mistudio.find.config import FindConfig, PassConfig

if TYPE_CHECKING:
    from mistudio.find.step import find_features, find_part
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "step")

__all__ = ["FindConfig", "PassConfig", "find_features", "find_part"]
