"""The direction step as a KFP component."""
