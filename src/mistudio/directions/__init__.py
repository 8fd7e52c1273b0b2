"""Directions in a model: made of examples, kept as artifacts, and read by who steers or watches."""
