"""The capture step as a KFP component."""
