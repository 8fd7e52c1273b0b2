"""The fail_gate component."""
