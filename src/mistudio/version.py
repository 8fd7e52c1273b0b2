"""The version of the library, and what it came in."""

import os

__version__ = "0.1.0"

IMAGE_ENV = "MISTUDIO_IMAGE"
COMMIT_ENV = "MISTUDIO_GIT_COMMIT"


def provenance() -> str:
    """The version, with the container image and the commit where the environment names them."""
    known = {"image": os.environ.get(IMAGE_ENV), "commit": os.environ.get(COMMIT_ENV)}
    told = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    return f"mistudio {__version__}" + (f" ({told})" if told else "")
