"""The index step as a KFP component."""
