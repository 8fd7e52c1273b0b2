"""The find_part component."""
