"""Features by what is said of them: by words, by meaning, or by both."""
