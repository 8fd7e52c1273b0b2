"""``python -m model_servers``: start a server."""
