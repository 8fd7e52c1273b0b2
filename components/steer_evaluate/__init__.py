"""The steer_evaluate step as a KFP component."""
