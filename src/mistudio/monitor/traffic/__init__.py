"""Traffic of any model, as loggers send or keep it, and the exchanges that it is made of."""
