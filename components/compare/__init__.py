"""The compare step as a KFP component."""
