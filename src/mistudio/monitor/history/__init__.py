"""What was seen and told, kept within bounds."""
