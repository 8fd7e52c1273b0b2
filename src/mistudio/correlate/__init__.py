"""Look-ups: from a text, a concept, a token, examples or a direction to the features that go with it."""
