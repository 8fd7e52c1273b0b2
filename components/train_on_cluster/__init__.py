"""The train_on_cluster step as a KFP component."""
