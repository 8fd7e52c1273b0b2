"""Look-ups on what is served: one method for each, all blocking, for any number of threads."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mistudio.correlate.config import CorrelateConfig
from mistudio.correlate.queries import (
    ConceptQuery,
    ExamplesQuery,
    FeatureQuery,
    Query,
    TextQuery,
    TokenQuery,
    VectorQuery,
)
from mistudio.correlate.replies import Reply

if TYPE_CHECKING:
    from mistudio.instrument.served import Served


class Correlator:
    """Answers queries.

    It owns nothing of what is served: whoever opened that closes it, after the last look-up has ended.

    Args:
        served: the model and its autoencoders, with what was found of their features.
        config: limits; None: the defaults.
        chat_template: to be used in place of the tokenizer's own; None: that one.
    """

    def __init__(
        self, served: "Served", config: CorrelateConfig | None = None, chat_template: str | None = None
    ) -> None:
        self._served, self.config, self._chat_template = served, config or CorrelateConfig(), chat_template

    def ask(self, query: Query) -> Reply:
        """Answer any query, by its class.

        Raises:
            InputError: it cannot be done as asked; the message names the field.
            NotFound: there is no such autoencoder, feature, token or direction.
        """
        methods: Mapping[type[Query], Callable[..., Reply]] = {
            TextQuery: self.text,
            ConceptQuery: self.concept,
            TokenQuery: self.token,
            FeatureQuery: self.feature,
            ExamplesQuery: self.examples,
            VectorQuery: self.vector,
        }
        return methods[type(query)](query)

    def text(self, query: TextQuery) -> Reply:
        """The features that are active on a text; errors as :meth:`ask`."""
        raise NotImplementedError

    def concept(self, query: ConceptQuery) -> Reply:
        """The features whose explanations speak of a concept; errors as :meth:`ask`."""
        raise NotImplementedError

    def token(self, query: TokenQuery) -> Reply:
        """The features that write a token, or are active on it; errors as :meth:`ask`."""
        raise NotImplementedError

    def feature(self, query: FeatureQuery) -> Reply:
        """The features like one, or that fire with it; errors as :meth:`ask`."""
        raise NotImplementedError

    def examples(self, query: ExamplesQuery) -> Reply:
        """The features that tell examples apart; errors as :meth:`ask`."""
        raise NotImplementedError

    def vector(self, query: VectorQuery) -> Reply:
        """The features that point as a vector does; errors as :meth:`ask`."""
        raise NotImplementedError
