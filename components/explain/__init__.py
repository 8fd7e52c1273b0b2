"""The explain step as a KFP component."""
