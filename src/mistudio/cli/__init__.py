"""The ``mistudio`` command."""
