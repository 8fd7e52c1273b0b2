"""The find_part step as a KFP component."""
