"""A watch on any model's traffic: live feature activations, rules, drift, and a history; free of any server."""
