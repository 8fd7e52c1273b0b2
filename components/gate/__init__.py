"""The gate step as a KFP component."""
