"""The class of transformers that loads a model, and the model without memory for its weights."""

from typing import Any

from mistudio.errors import SubjectError
from mistudio.subject.loading import quiet_transformers


def choose_auto_class(config: Any) -> Any:
    """The transformers class that loads a model of this configuration, with its output embeddings if it has some.

    Raises:
        SubjectError: it is no language model of one transformer stack.
    """
    return auto_classes_for(config)[0]


def auto_classes_for(config: Any) -> list[Any]:
    """The classes to load a model with: the second where the weights lack what the first puts on the stack.

    A configuration that names a head of another kind (of rewards, of ELECTRA's discriminator) is of a model whose
    stream can be studied all the same.

    Raises:
        SubjectError: it is no language model of one transformer stack.
    """
    causal, masked, *others = _auto_classes()
    if not config.is_encoder_decoder:
        names = set(config.architectures or ())
        own_code = getattr(config, "auto_map", None) or {}
        for auto_class, known in (causal, masked, *others):
            if names & set(_flat(known.values())) or auto_class.__name__ in own_code:
                return [auto_class]
        for auto_class, known in (masked, causal):
            if config.model_type in known:
                return [auto_class, others[-1][0]] if names else [auto_class]
    kind = "an encoder-decoder" if config.is_encoder_decoder else "not a language model that transformers knows"
    message = (
        f"{', '.join(config.architectures or ()) or config.model_type} is {kind}. "
        "Use a causal language model (as GPT-2, Llama) or an encoder with a masked-token head (as BERT)."
    )
    raise SubjectError(message)


def empty_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """A model of this configuration without memory for its weights.

    Raises:
        SubjectError: it is no language model of one transformer stack.
    """
    import accelerate

    auto_class = choose_auto_class(config)
    with quiet_transformers(), accelerate.init_empty_weights():
        return auto_class.from_config(config, trust_remote_code=trust_remote_code)


def _auto_classes() -> tuple[tuple[Any, Any], ...]:
    """Classes of transformers, each with the names it knows by model type.

    In this order: a name in an earlier table decides. The last has no output embeddings.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    return (
        (transformers.AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (transformers.AutoModelForMaskedLM, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        (transformers.AutoModelForImageTextToText, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
        (transformers.AutoModel, modeling_auto.MODEL_MAPPING_NAMES),
    )


def _flat(names: Any) -> list[str]:
    return [name for entry in names for name in ([entry] if isinstance(entry, str) else entry)]
