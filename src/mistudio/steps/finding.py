"""The find step, whole and in parts.

As in ``batch``: functions of plain values, for the command line and for KFP components.
"""

from mistudio.artifacts import Produced, Store, open_artifact
from mistudio.steps.batch import subject_settings, subject_source
from mistudio.steps.running import StepOutput, run_step
from mistudio.steps.validation import validated
from mistudio.tracking import Run


def find(
    sae: str,
    model: str = "",
    parts: str = "",
    contexts: int = 20,
    sampled_contexts: int = 20,
    random_contexts: int = 10,
    hard_contexts: int = 10,
    context_before: int = 24,
    context_after: int = 8,
    include_statistics: bool = True,
    coherence_threshold: float = 0.5,
    ablation_contexts: int = 2,
    attribution_contexts: int = 1,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Find what activates each feature, which features are alike, and what each does in the model.

    Args:
        sae: Trained autoencoder (sae/...).
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        parts: All parts of the pass that find_part made (features-part/...), with commas; empty: make it here.
        contexts: Strongest contexts kept a feature, each from another document.
        sampled_contexts: Activating contexts a feature, drawn over the quantiles of its activations.
        random_contexts: Contexts a feature, drawn at random, in which it is not active.
        hard_contexts: Contexts a feature in which its neighbours fire strongly and it does not.
        context_before: Tokens shown before the strongest one.
        context_after: Tokens shown after it.
        include_statistics: Count the tokens, tasks and positions that features go with.
        coherence_threshold: Coherence, 0 to 1, from which a feature counts as coherent.
        ablation_contexts: Contexts a feature in which zeroing it is tried: three forward passes each; 0: none.
        attribution_contexts: Contexts a feature traced to input tokens: five passes with gradients each; 0: none.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.find import FindConfig, find_features

    def work(opened: Store, _run: Run) -> Produced:
        subject = subject_settings(dtype, quantization, device, trust_remote_code, model_settings)
        settings = {
            "contexts": contexts,
            "sampled_contexts": sampled_contexts,
            "random_contexts": random_contexts,
            "hard_contexts": hard_contexts,
            "context_before": context_before,
            "context_after": context_after,
            "include_statistics": include_statistics,
            "coherence_threshold": coherence_threshold,
            "ablation_contexts": ablation_contexts,
            "attribution_contexts": attribution_contexts,
        }
        config = validated(FindConfig, settings)
        made = [open_artifact(opened, uri, "features-part") for uri in parts.replace(" ", "").split(",") if uri]
        autoencoder = open_artifact(opened, sae, "sae")
        source = subject_source(model, revision, opened, autoencoder)
        return find_features(opened, autoencoder, source, subject, config, seed, made)

    return run_step("find", store, work)


def find_part(
    sae: str,
    model: str = "",
    part: int = 0,
    num_parts: int = 1,
    contexts: int = 20,
    sampled_contexts: int = 20,
    context_before: int = 24,
    context_after: int = 8,
    include_statistics: bool = True,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Make one part of find's pass over the activations, to be put together by find.

    Args:
        sae: Trained autoencoder (sae/...).
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        part: Which part, from 0.
        num_parts: How many parts the activations are cut into.
        contexts: Strongest contexts kept a feature, each from another document.
        sampled_contexts: Activating contexts a feature, drawn over the quantiles of its activations.
        context_before: Tokens shown before the strongest one.
        context_after: Tokens shown after it.
        include_statistics: Count the tokens, tasks and positions that features go with.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.find import PassConfig
    from mistudio.find import find_part as find_part_of

    def work(opened: Store, _run: Run) -> Produced:
        subject = subject_settings(dtype, quantization, device, trust_remote_code, model_settings)
        settings = {
            "contexts": contexts,
            "sampled_contexts": sampled_contexts,
            "context_before": context_before,
            "context_after": context_after,
            "include_statistics": include_statistics,
        }
        config, artifact = validated(PassConfig, settings), open_artifact(opened, sae, "sae")
        source = subject_source(model, revision, opened, artifact)
        return find_part_of(opened, artifact, source, subject, config, seed, part=part, num_parts=num_parts)

    return run_step("find_part", store, work, about=f"part {part + 1} of {num_parts}")
