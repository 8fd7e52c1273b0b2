"""HTML pages that need nothing but themselves, from any place they are opened.

All text that comes from data is escaped, by jinja2 in the page and by JSON in embedded data, and the scripts
only ever set text. Beyond that a page carries a content security policy that allows no network and no script
but its own, known by its hash, so that no corpus and no name can make it run anything.
"""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

_PACKAGE, _TEMPLATES = "mistudio.report", "templates"


class Page(NamedTuple):
    """The files of this package that a page is made from; scripts share one scope, in their order."""

    template: str
    style: str
    scripts: tuple[str, ...]

    def digest(self) -> str:
        """First 12 hex digits of the hash of all that the page is made from beside the data."""
        digest = hashlib.sha256()
        for name in (self.template, self.style, *self.scripts):
            digest.update(_read(name).encode())
        return digest.hexdigest()[:12]

    def open(self) -> Template:
        """The page with its style and script in place, and with the hashes that allow them."""
        environment = Environment(
            loader=PackageLoader(_PACKAGE, _TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        style, script = _read(self.style), _script(self.scripts)
        own = {
            "style": Markup(style),  # noqa: S704 -- our own file  # nosec B704
            "script": Markup(script),  # noqa: S704 -- our own file  # nosec B704
            "style_hash": _policy_hash(style),
            "script_hash": _policy_hash(script),
        }
        return environment.get_template(self.template, globals=own)


def _script(names: tuple[str, ...]) -> str:
    """The files as one script that leaves nothing behind in the page's own scope."""
    return '"use strict";\n(() => {\n' + "\n".join(map(_read, names)) + "})();\n"


def _policy_hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@cache
def _read(name: str) -> str:
    return (resources.files(_PACKAGE) / _TEMPLATES / name).read_text(encoding="utf-8")
