"""A client of the servers: text with and without edits, at once or as it comes, and look-ups of features.

::

    with Client("http://127.0.0.1:8080") as client:
        text = client.complete("Once upon a time", edits=[{"op": "add", "feature": 12, "strength": 4}], compare=True)
        print(text.text, text.comparison.perplexity)
        for hit in client.correlate.text("Once upon a time", top=5).hits:
            print(hit.feature, hit.value, hit.label)
"""

from mistudio.client.asynchronous import AsyncClient
from mistudio.client.look_ups import Found, Hit
from mistudio.client.replies import Compared, Piece, Text, Usage
from mistudio.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "Compared", "Found", "Hit", "Piece", "Text", "Usage"]
