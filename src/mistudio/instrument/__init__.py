"""A loaded language model, and what is read from it: sessions, forward passes, readings."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio.instrument.passes import CorpusSequences, ListedSequences, text_activations, token_batches
    from mistudio.instrument.readings import ActivationReading, ActiveReading, ChosenReading
    from mistudio.instrument.session import Ends, PlacedAutoencoder, Session, open_session, place_autoencoder
    from mistudio.instrument.texts import Chat, Text, TextTokens
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "passes", "texts", "readings", "session")

__all__ = [
    "ActivationReading",
    "ActiveReading",
    "Chat",
    "ChosenReading",
    "CorpusSequences",
    "Ends",
    "ListedSequences",
    "PlacedAutoencoder",
    "Session",
    "Text",
    "TextTokens",
    "open_session",
    "place_autoencoder",
    "text_activations",
    "token_batches",
]
