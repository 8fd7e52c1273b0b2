"""The register step as a KFP component."""
