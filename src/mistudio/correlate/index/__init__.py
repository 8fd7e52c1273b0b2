"""An index over decoder directions: the batch step that makes it, and the search."""
