"""Settings of what is asked of a cluster."""
