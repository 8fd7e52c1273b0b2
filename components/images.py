"""The image references that compilation puts into components, from ``images/refs.env``, which ``make refs`` writes."""

from pathlib import Path

_REFS = Path(__file__).parents[1] / "images" / "refs.env"


def _read_refs() -> dict[str, str]:
    lines = [line.strip() for line in _REFS.read_text(encoding="utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


_IMAGES = _read_refs()
BATCH_IMAGE = _IMAGES["BATCH_IMAGE"]
"""What components run in."""
BATCH_CUDA_IMAGE = _IMAGES["BATCH_CUDA_IMAGE"]
"""The same on a GPU."""
