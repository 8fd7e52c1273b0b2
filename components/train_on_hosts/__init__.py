"""The train_on_hosts step as a KFP component."""
