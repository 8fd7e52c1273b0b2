"""The report step as a KFP component."""
