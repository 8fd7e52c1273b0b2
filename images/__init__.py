"""The container images: their files, what they are called, how they are locked and built. None of it is installed."""
