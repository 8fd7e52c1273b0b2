"""A watch list held to a new version of the watched model."""
