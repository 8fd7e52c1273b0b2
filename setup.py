"""What pyproject.toml cannot say: a built package carries the pipelines and components, which lie beside the library.

In a checkout they are found there, and an editable install needs no copy.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_CARRIED = ("components", "model_servers", "pipelines")
_REFS = "images/refs.env"


class BuildWithPipelines(build_py):
    """Builds the library with a copy of the pipelines in it, where ``mistudio.runs.checkout`` looks."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        bundled = Path(self.build_lib) / "mistudio" / "bundled"
        shutil.rmtree(bundled, ignore_errors=True)  # of an earlier build
        for folder in _CARRIED:
            shutil.copytree(folder, bundled / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (bundled / _REFS).parent.mkdir()
        shutil.copy(_REFS, bundled / _REFS)


setup(cmdclass={"build_py": BuildWithPipelines})
