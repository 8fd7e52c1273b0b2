"""The score step as a KFP component."""
