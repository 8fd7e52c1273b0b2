"""Whether steering does what it says: strengths, coherence, and what else pushes as hard."""
