"""The stability component."""
