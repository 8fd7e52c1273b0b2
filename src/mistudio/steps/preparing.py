"""From text to activations: the steps ingest and capture."""

from typing import TYPE_CHECKING

from mistudio.artifacts import InputRef, Produced
from mistudio.errors import ConfigError
from mistudio.settings import get, validated
from mistudio.steps.choose import CONTEXT_LENGTH, HOOKS, name_hooks
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Asked, Input, Inputs, Output, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from mistudio.activations import CaptureConfig
    from mistudio.corpus.config import IngestConfig

_CORPUS = (
    "Corpus: python-docs (or some of its tasks: python-docs:prose,docstring), a file, a folder, hf:NAME, or the name "
    "of an added corpus."
)


def _ingest(context: Context, _inputs: Inputs, config: "IngestConfig") -> Produced:
    from mistudio.corpus.ingest import ingest_with
    from mistudio.corpus.sources import open_source
    from mistudio.subject.tokens import check_vocabulary, load_tokenizer

    source = context.source()
    documents = open_source(
        context.argument("corpus"),
        context.store,
        text_column=config.text_column,
        label_column=config.label_column,
        task_column=config.task_column,
    )
    reference = InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest)
    trust = context.subject().trust_remote_code

    def load() -> "PreTrainedTokenizerBase":
        tokenizer: PreTrainedTokenizerBase = load_tokenizer(source, trust)
        vocab_size = context.model_facts().vocab_size
        if vocab_size is not None:
            check_vocabulary(tokenizer, vocab_size, source.name)
        return tokenizer

    return ingest_with(context.store, documents, load, reference, config)


def _capture(context: Context, inputs: Inputs, config: "CaptureConfig") -> Produced:
    from mistudio.activations import capture

    corpus = inputs.one("corpus")
    return capture(context.store, corpus, context.source(corpus), context.subject(), config)


def _check_capture(asked: Asked, _others: "Mapping[str, Asked]") -> None:
    """Refuse layers that no model has, and what cannot be loaded here."""
    from mistudio.subject import SubjectConfig
    from mistudio.subject.devices import check_quantization

    layer = asked.given.get("layer")
    if layer is not None and layer < 0:
        message = f"layer {layer} is out of range: layers count from 0. Leave it out for the middle one."
        raise ConfigError(message)
    if hooks := get(asked.content, "hooks"):
        name_hooks(hooks, layer)
    check_quantization(validated(SubjectConfig, asked.loading))


INGEST = Step(
    name="ingest",
    title="Tokenise corpus",
    summary="Read a corpus, tokenise it, and split it by document.",
    config="mistudio.corpus.config:IngestConfig",
    output=Output("tokenised_corpus", "corpus", "Sequences of token ids with their documents, split by document."),
    arguments=(Argument("corpus", str, _CORPUS, "python-docs"),),
    uses=frozenset({"tokenizer"}),
    choices=CONTEXT_LENGTH,
    run=_ingest,
)
CAPTURE = Step(
    name="capture",
    title="Capture activations",
    summary="Run a corpus through a model and keep its activations.",
    config="mistudio.activations.config:CaptureConfig",
    inputs=(Input("corpus", "corpus", "Tokenised corpus (corpus/...)."),),
    output=Output("activations", "activations", "Activations of the hook point, in shards in the store."),
    arguments=(Argument("layer", int, "Layer of hook points that name none, from 0; None: the middle one."),),
    uses=frozenset({"model"}),
    choices=HOOKS,
    check=_check_capture,
    run=_capture,
)
