"""Look-ups: from a text, a concept, a token, a feature, examples or a vector to the features that go with it."""
