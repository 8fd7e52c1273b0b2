"""The stability step as a KFP component."""
