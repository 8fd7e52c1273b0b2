"""Look-ups on what is served: one method for each, all blocking, for any number of threads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.correlate.concepts.embedders import Embedder
from mistudio.correlate.config import CorrelateConfig
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.hits import lineage
from mistudio.correlate.of_concept import features_of_concept
from mistudio.correlate.of_examples import features_of_examples
from mistudio.correlate.of_feature import features_of_feature
from mistudio.correlate.of_text import features_of_text
from mistudio.correlate.of_token import features_of_token, token_id
from mistudio.correlate.of_vector import features_of_vector
from mistudio.correlate.queries import (
    ConceptQuery,
    ExamplesQuery,
    FeatureQuery,
    Query,
    TextQuery,
    TokenQuery,
    VectorQuery,
)
from mistudio.correlate.reading import TokenReader
from mistudio.correlate.replies import Hit, Reply
from mistudio.correlate.saving import check_can_save
from mistudio.instrument.compiled import Nameable
from mistudio.subject import unedited

if TYPE_CHECKING:
    from mistudio.instrument.served import Served


class Correlator:
    """Answers queries.

    It owns nothing of what is served: whoever opened that closes it, after the last look-up has ended.

    Args:
        served: the model and its autoencoders, with what was found of their features.
        config: limits; None: the defaults.
        chat_template: to be used in place of the tokenizer's own; None: that one.
        embedder: makes vectors of concepts and explanations; None: concepts are searched by words.
        concepts_folder: where the search for concepts keeps its files; None: in the private folder of this machine.

    Raises:
        SubjectError: the special tokens of the model's tokenizer cannot be told.
    """

    def __init__(
        self,
        served: "Served",
        config: CorrelateConfig | None = None,
        chat_template: str | None = None,
        embedder: Embedder | None = None,
        concepts_folder: Path | None = None,
    ) -> None:
        self._served, self.config = served, config or CorrelateConfig()
        self._reader = TokenReader(served.session.subject, chat_template)
        self._names = Nameable(served.session, [one.name for one in served.features])
        self._dictionaries = tuple(
            Dictionary(placed, features, embedder, concepts_folder)
            for placed, features in zip(served.session.autoencoders, served.features, strict=True)
        )

    def prepare(self) -> None:
        """Make what concepts are searched in where it is not there, and open indexes: what a server does to be ready.

        With an embedder and many features it takes long. Nothing has to call it: a look-up that comes first waits.

        Raises:
            StorageError: the files that are searched cannot be made.
        """
        for dictionary in self._dictionaries:
            dictionary.decoder()
            if dictionary.is_explained:
                with unedited():
                    dictionary.concepts("concept").prepare()

    def ask(self, query: Query) -> Reply:
        """Answer any query, by its class.

        Raises:
            InputError: it cannot be done as asked; the message names the field.
            NotFound: there is no such autoencoder, feature or direction.
            SubjectError: the model has no template for chats, or no output embeddings.
            DamagedArtifact: a file differs from what was published.
            StorageError: a direction is to be kept, and the store cannot be written.
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
        dictionary = self._dictionary(query)
        found = features_of_text(query, dictionary, self._served.session.subject, self._reader, self.config)
        return self._reply("text", dictionary, **found._asdict())

    def concept(self, query: ConceptQuery) -> Reply:
        """The features whose explanations speak of a concept; errors as :meth:`ask`."""
        dictionary = self._dictionary(query)
        return self._reply("concept", dictionary, features_of_concept(query, dictionary))

    def token(self, query: TokenQuery) -> Reply:
        """The features that write a token, or are active on it; errors as :meth:`ask`."""
        dictionary, subject = self._dictionary(query), self._served.session.subject
        token = token_id(query.token, self._reader, subject)
        hits = features_of_token(query, token, dictionary, subject)
        return self._reply("token", dictionary, hits, tokens=(self._reader.token(token),))

    def feature(self, query: FeatureQuery) -> Reply:
        """The features like one, or that fire with it; errors as :meth:`ask`."""
        dictionary = self._dictionary(query)
        hits, index = features_of_feature(query, dictionary)
        return self._reply("feature", dictionary, hits, index=index)

    def examples(self, query: ExamplesQuery) -> Reply:
        """The features that tell examples apart, and the direction between them; errors as :meth:`ask`."""
        dictionary = self._dictionary(query)
        check_can_save(query, self._served)
        hits, separation = features_of_examples(query, dictionary, self._served, self._reader, self.config)
        return self._reply("examples", dictionary, hits, separation=separation)

    def vector(self, query: VectorQuery) -> Reply:
        """The features that point as a vector does; errors as :meth:`ask`."""
        dictionary = self._dictionary(query)
        hits, index, warnings = features_of_vector(query, dictionary, self._served)
        return self._reply("vector", dictionary, hits, index=index, warnings=warnings)

    def _dictionary(self, query: Query) -> Dictionary:
        return self._dictionaries[self._names.number(query.autoencoder)]

    def _reply(self, look_up: str, dictionary: Dictionary, hits: tuple[Hit, ...], **more: Any) -> Reply:
        return Reply(
            look_up=look_up,
            autoencoder=dictionary.name,
            hook=str(dictionary.placed.ends.read.point),
            hits=hits,
            lineage=lineage(dictionary, self._served.session.source),
            **more,
        )
