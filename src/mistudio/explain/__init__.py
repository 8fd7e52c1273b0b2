"""The explain step: a description of each feature, made from documents that no scorer uses."""
