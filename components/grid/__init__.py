"""The grid component."""
