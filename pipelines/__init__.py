"""KFP pipelines: compile-time code, reached from the checkout, that composes the components."""
