"""The probe step as a KFP component."""
