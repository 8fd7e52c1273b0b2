"""Whether features fire as they did: tests that hold at every moment, and what they compare with."""
