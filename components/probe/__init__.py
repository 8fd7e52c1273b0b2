"""The probe component."""
