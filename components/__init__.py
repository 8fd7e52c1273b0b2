"""KFP components: compile-time code, reached from the checkout, that calls the mistudio library."""
