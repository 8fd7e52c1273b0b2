"""The deploy step as a KFP component."""
