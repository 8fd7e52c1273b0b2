"""What all predictors share: settings, keys, limits, errors, logs, metrics, health, and the server itself."""
