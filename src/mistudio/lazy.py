"""Packages whose names come from modules that import torch: each such module is imported when a name is asked for.

A step that finds its artifact published needs configurations, recipes and names alone. They have modules without
torch, which packages import as usual; the others stand under ``TYPE_CHECKING`` for the type checker, and here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def from_modules(package: str, *modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562), for what its ``__all__`` names and it does not import itself.

    Args:
        package: ``__name__`` of the package.
        modules: its modules that have those names; each name comes from the first that has it.
    """

    def get(name: str) -> Any:
        # Anything else is refused without an import: tools ask every module for names of their own.
        if name in import_module(package).__all__:
            for module in modules:
                found = import_module(f"{package}.{module}")
                if hasattr(found, name):
                    return getattr(found, name)
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message)

    return get
