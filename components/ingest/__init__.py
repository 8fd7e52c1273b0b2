"""The ingest step as a KFP component."""
