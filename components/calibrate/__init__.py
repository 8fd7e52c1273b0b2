"""The calibrate step as a KFP component."""
