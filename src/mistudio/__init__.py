"""miStudio: capture, sparse features, search and steering of language-model activations.

The library imports neither kfp nor kserve; see ``docs/architecture.md`` for the layers and the
direction in which they import each other.
"""

__version__ = "0.1.0"
