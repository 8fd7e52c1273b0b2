"""Checks of the platform against subjects whose concepts are known: what it finds has to be what was put there."""
