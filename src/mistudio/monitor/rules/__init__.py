"""Rules on what is watched, and what is done when one fires."""
