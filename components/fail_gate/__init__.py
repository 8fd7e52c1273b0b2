"""The fail_gate step as a KFP component."""
