"""Autoencoders in other libraries' formats: import into the store, export from it."""

from mistudio.interchange.publish import FORMATS, export_sae, import_sae
from mistudio.interchange.weights import Reading

__all__ = ["FORMATS", "Reading", "export_sae", "import_sae"]
