"""Checks of what a cluster is given: images, YAML and manifests, without a cluster.

``python -m checks`` runs them all and prints a table; the tests run the same functions, one test a check.
"""
