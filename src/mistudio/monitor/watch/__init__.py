"""What is watched, and what is read of exchanges for it."""
