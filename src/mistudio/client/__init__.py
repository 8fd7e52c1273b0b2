"""A client of the servers: text with and without edits, from Python, at once or as it comes.

::

    with Client("http://127.0.0.1:8080") as client:
        text = client.complete("Once upon a time", edits=[{"op": "add", "feature": 12, "strength": 4}], compare=True)
        print(text.text, text.comparison.perplexity)
"""

from mistudio.client.asynchronous import AsyncClient
from mistudio.client.replies import Compared, Piece, Text, Usage
from mistudio.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "Compared", "Piece", "Text", "Usage"]
