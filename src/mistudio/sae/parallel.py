"""How many processes train together, and what they share; what they exchange is in ``workers``."""

import os
from typing import Literal

Parallel = Literal["data", "latents"]


def num_processes() -> int:
    """How many processes ``accelerate launch`` or ``torchrun`` started together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))
