"""Found features, their explanations and scores in the formats of other tools, and explanations from them."""

from mistudio.exchange.explanations import import_explanations
from mistudio.exchange.export import FORMATS, Exported, export_features
from mistudio.exchange.names import Names, names_of

__all__ = ["FORMATS", "Exported", "Names", "export_features", "import_explanations", "names_of"]
