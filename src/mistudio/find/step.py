"""The find step: what activates each feature, in one streaming pass over the training activations.

Memory is bounded by features x contexts, whatever the corpus: only the statistics and the best contexts
of each feature are held. After each shard they are saved, and a killed run goes on from there.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file

from mistudio.activations import OrderedRows, open_hook
from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, open_input, produce
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import SubjectError
from mistudio.evaluate import check_subject, numerics
from mistudio.find.contexts import ChunkRows, TopContexts
from mistudio.find.statistics import FeatureStatistics
from mistudio.find.tables import Lens, find_json, logit_lens, write_contexts, write_features
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder, hook_of, load_autoencoder, spread_of
from mistudio.subject import HookPoint, Subject, SubjectConfig, SubjectSource, load_subject, token_strings

FEATURES_NAME = "features.parquet"
CONTEXTS_NAME = "contexts.parquet"
FIND_NAME = "find.json"
_MLP_INSIDE = "mlp_act"


class FindConfig(BaseModel):
    """What to keep of each feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contexts: int = Field(
        default=20, ge=1, le=1000, description="strongest contexts a feature, each from another document"
    )
    context_before: int = Field(default=24, ge=0, le=512, description="tokens shown before the peak")
    context_after: int = Field(default=8, ge=0, le=512, description="tokens shown after the peak")
    lens_tokens: int = Field(default=10, ge=1, le=100, description="promoted and suppressed output tokens a feature")
    chunk_rows: int = Field(default=32_768, ge=64, description="about how many activations are encoded at once")


def find_features(
    store: Store,
    sae: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: FindConfig | None = None,
    seed: int = 0,
) -> Produced:
    """Publish statistics, top contexts and logit lens of every feature of the autoencoder ``sae``.

    Raises:
        InputError: the model is not the one that the activations come from.
    """
    config = config or FindConfig()
    activations = open_input(store, sae.manifest.inputs["activations"], "activations")
    check_subject(activations, source)
    inputs = {"sae": sae.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}
    settings = {**config.model_dump(mode="json"), **numerics(subject_config)}
    recipe = Recipe(kind="features", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        subject = load_subject(source, subject_config)
        autoencoder = load_autoencoder(sae, subject.device)
        with open_hook(store, activations, hook_of(sae), source, subject_config) as reader:
            finder = _Finder(draft, autoencoder, reader, spread_of(sae), config, subject.device)
            finder.run()
        corpus = TokenCorpus(open_input(store, activations.manifest.inputs["corpus"], "corpus"))
        return _publish(draft, finder, corpus, subject)

    return produce(store, recipe, "find", build)


class _Finder:
    """The pass over the activations, with a checkpoint after each shard."""

    def __init__(
        self,
        draft: Draft,
        sae: SparseAutoencoder,
        reader: OrderedRows,
        spread: float,
        config: FindConfig,
        device: torch.device,
    ) -> None:
        self.draft, self.sae, self.reader, self.config, self.device = draft, sae, reader, config, device
        self.statistics = FeatureStatistics(sae.width, spread)
        self.contexts = TopContexts(sae.width, config.contexts, config.context_before, config.context_after)

    def run(self) -> None:
        with progress("Find contexts", len(self.reader), "tokens") as bar:
            first = self._resume()
            bar.advance(self.statistics.num_tokens)
            for shard in range(first, len(self.reader.shards)):
                for start, stop in self.reader.chunks(shard, self.config.chunk_rows):
                    self._chunk(start, stop)
                    bar.advance(stop - start)
                self._save(shard + 1)

    def _chunk(self, start: int, stop: int) -> None:
        acts_ND = self.reader.acts(start, stop).to(self.device, torch.float32)
        active = self.sae.encode_active(acts_ND)
        self.statistics.update(active, len(acts_ND))
        meta = self.reader.meta(start, stop)
        self.contexts.update(active, ChunkRows(meta["document"], meta["sequence"], meta["position"]))

    def _save(self, done: int) -> None:
        """Keep what the first ``done`` shards gave; the last shard is followed by publication instead."""
        if done == len(self.reader.shards):
            return
        tensors = {f"statistics.{name}": value for name, value in self.statistics.state_dict().items()}
        tensors |= {f"contexts.{name}": value for name, value in self.contexts.state_dict().items()}
        with self.draft.stage_work(f"shards-{done:05d}.safetensors") as path:
            save_file(tensors, path)
        for name in self.draft.work_names()[:-1]:
            self.draft.remove_work(name)

    def _resume(self) -> int:
        """Load the last checkpoint; return the number of shards that are done."""
        names = self.draft.work_names()
        if not names:
            return 0
        tensors = load_file(self.draft.work_file(names[-1]))
        for part, holder in (("statistics.", self.statistics), ("contexts.", self.contexts)):
            state = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            holder.load_state_dict(state)
        return int(names[-1].removeprefix("shards-").removesuffix(".safetensors"))


def _publish(draft: Draft, finder: _Finder, corpus: TokenCorpus, subject: Subject) -> Summary:
    tokens = token_strings(subject.tokenizer)
    statistics = finder.statistics
    lens = _lens(subject, finder)
    with draft.stage(FEATURES_NAME) as path:
        write_features(path, statistics, lens, tokens)
    with draft.stage(CONTEXTS_NAME) as path:
        num_contexts = write_contexts(path, finder.contexts, corpus, tokens)
    draft.write(FIND_NAME, find_json(statistics, finder.contexts))
    return {
        "features": finder.sae.width,
        "silent_features": int((statistics.count_F == 0).sum()),
        "contexts": num_contexts,
        "tokens": statistics.num_tokens,
        "logit_lens": lens is not None,
    }


def _lens(subject: Subject, finder: _Finder) -> Lens | None:
    """The logit lens, where features are directions in the residual stream and the model has an output head."""
    hook = HookPoint.parse(finder.reader.hook)
    if hook.kind == _MLP_INSIDE:
        return None
    try:
        return logit_lens(subject, finder.sae.W_dec, finder.config.lens_tokens)
    except SubjectError:
        return None
