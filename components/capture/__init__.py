"""The capture component."""
