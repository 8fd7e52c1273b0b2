"""The grid step as a KFP component."""
