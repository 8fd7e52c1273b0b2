"""The find step as a KFP component."""
