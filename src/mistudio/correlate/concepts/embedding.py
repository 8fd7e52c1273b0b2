"""What makes the vectors of concepts and explanations, by how people name it.

::

    subject                            the model that is loaded, at its middle layer
    subject:4                          at another layer
    models/all-minilm                  a folder with a sentence-transformers model
    http://localhost:8000/v1#minilm    an OpenAI-compatible endpoint, and the name of its model
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from mistudio.correlate.concepts.embedders import Embedder
from mistudio.errors import ConfigError, InputError
from mistudio.paths import given_path
from mistudio.plain_text import shortened

if TYPE_CHECKING:
    from mistudio.instrument.served import Served

_SUBJECT = "subject"
FORMS = "subject, subject:LAYER, the folder of a sentence-transformers model, or ADDRESS#MODEL of an endpoint"


@contextmanager
def open_embedder(named: str, served: "Served") -> Iterator[Embedder | None]:
    """What embeds, closed in the end; None where nothing is named.

    Raises:
        ConfigError: it names nothing that is known, or an address that cannot be asked.
        InputError: a folder holds no such model, or nothing says which the loaded model is.
    """
    if not named:
        yield None
    elif "://" in named:
        with _endpoint(named) as endpoint:
            yield endpoint
    elif named.partition(":")[0] == _SUBJECT:
        yield _subject(named, served)
    else:
        yield _sentences(named, served)


@contextmanager
def _endpoint(named: str) -> Iterator[Embedder]:
    from mistudio.correlate.concepts.endpoint_embedder import EndpointEmbedder
    from mistudio.explain.llm_config import EndpointConfig
    from mistudio.settings import validated

    address, _, model = named.partition("#")
    if not model:
        message = f"{shortened(named)} names no model of the endpoint: write ADDRESS#MODEL."
        raise ConfigError(message)
    with EndpointEmbedder(validated(EndpointConfig, {"base_url": address, "model": model})) as embedder:
        yield embedder


def _subject(named: str, served: "Served") -> Embedder:
    from mistudio.correlate.concepts.subject_embedder import SubjectEmbedder

    subject, source = served.session.subject, served.session.source
    layer = named.partition(":")[2]
    if named != _SUBJECT and layer not in map(str, range(subject.num_layers)):
        message = f"{shortened(named)}: the model has layers 0 to {subject.num_layers - 1}."
        raise ConfigError(message)
    if source is None:
        message = "Nothing says where the loaded model comes from, so that its vectors cannot be kept: name another."
        raise InputError(message)
    return cast("Embedder", SubjectEmbedder(subject, source.digest, int(layer) if layer else None))


def _sentences(named: str, served: "Served") -> Embedder:
    from mistudio.correlate.concepts.sentence_embedder import SentenceEmbedder

    folder = given_path(named, "a sentence-transformers model")
    if not folder.is_dir():
        message = f"{shortened(named)} is nothing that embeds texts: give {FORMS}."
        raise ConfigError(message)
    return SentenceEmbedder(folder, str(served.session.subject.device))
