"""The find_more step as a KFP component."""
