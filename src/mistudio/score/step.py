"""The score step: how well explanations predict their features on held-out documents.

No explainer sees a held-out document, and no scorer any other. Explanations are scored a block at a time; each finished
block is kept with the draft, so that a killed run goes on at the next.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, open_input, produce
from mistudio.errors import ConfigError, DamagedArtifact
from mistudio.explain import TOKEN_SETS_NAME, JudgeSource, read_explanations
from mistudio.explain.firings import Firings
from mistudio.explain.judge import Judge
from mistudio.explain.material import Material, open_material
from mistudio.explain.programs import Context, Program
from mistudio.explain.records import Explanation
from mistudio.explain.tokens import Tokens
from mistudio.parallel import in_parallel
from mistudio.progress import progress
from mistudio.score.config import PROGRAM, SCORERS, ScoreConfig
from mistudio.score.program import ProgramScorer
from mistudio.score.records import Score, Scorer
from mistudio.score.sampling import ExampleSampler
from mistudio.score.summary import summarise
from mistudio.score.tables import SCORES_NAME, SUMMARY_NAME, join_scores, read_score_table, write_scores
from mistudio.subject import SubjectConfig, SubjectSource

SHUFFLED = "program-shuffled"
_READ_NAME = "read.json"
_BLOCKS_AT_ONCE = 64  # in memory, and for one set of worker processes


def score(
    store: Store,
    explanations: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig | None = None,
    config: ScoreConfig | None = None,
    seed: int = 0,
    judge: JudgeSource | None = None,
) -> Produced:
    """Publish scores of every explanation, on held-out documents.

    Args:
        store: holds the artifacts.
        explanations: artifact of kind ``explanations``.
        source: the model that the activations come from; its tokenizer is needed.
        subject_config: how to load it.
        config: who scores, and on how much.
        seed: of everything random.
        judge: the language model that scorers ask.

    Raises:
        InputError: the tokenizer is another one.
        ConfigError: a scorer is unknown, asks a language model and none is given, or runs programs and there are none.
        CorpusError: no held-out document has activations.
    """
    config = config or ScoreConfig()
    features = open_input(store, explanations.manifest.inputs["features"], "features")
    material = open_material(store, features, source, subject_config)
    check_scorers(config, has_judge=judge is not None)
    inputs = {
        "explanations": explanations.ref,
        "tokenizer": InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
    }
    settings = _settings(config)
    asked = judge if SCORERS.need_judge(config.scorers) else None
    settings["judge"] = asked.settings if asked else None
    if SCORERS.need_subject(config.scorers):
        inputs["subject"], numerics = material.subject_recipe()
        settings |= numerics
    recipe = Recipe(kind="scores", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        with asked.open() if asked else nullcontext() as opened:
            return _Scoring(draft, material, explanations, config, seed, opened).run()

    return produce(store, recipe, "score", build)


def check_scorers(config: ScoreConfig, *, has_judge: bool) -> None:
    """Refuse scorers that cannot score, before anything is read.

    Raises:
        ConfigError: one is unknown, asks a language model and none is given, or refuses its settings.
    """
    SCORERS.check(config.scorers, config, has_judge=has_judge)


def _settings(config: ScoreConfig) -> dict[str, Any]:
    """What of the configuration the scorers asked for depend on."""
    always = ["scorers", "max_tokens", "block_features"]
    if set(config.scorers) != {PROGRAM}:
        always.append("examples")
    return SCORERS.recipe(config.scorers, config, always)


class _Scoring:
    """Scores block by block, and publishes."""

    def __init__(
        self,
        draft: Draft,
        material: Material,
        explanations: Artifact,
        config: ScoreConfig,
        seed: int,
        judge: Judge | None,
    ) -> None:
        self.draft, self.material, self.explanations = draft, material, explanations
        self.config, self.seed, self.judge = config, seed, judge
        # Of explanations that hold programs.
        self.threshold: float | None = explanations.manifest.config.get("program", {}).get("threshold")
        self._metadata = json.loads(explanations.file("explanations.json").read_bytes())
        self._read: tuple[Tokens, Firings] | None = None
        self._context: Context | None = None

    def run(self) -> Summary:
        names = []
        with progress("Score explanations", len(self.config.scorers), "scorers") as bar:
            for name in self.config.scorers:
                names += list(self._programs() if name == PROGRAM else self._judged(name))
                bar.advance()
        with self.draft.stage(SCORES_NAME) as path:
            join_scores(path, map(self.draft.work_file, names))
        return self._publish()

    def _programs(self) -> Iterator[str]:
        """Working files with the scores of programs, of the best sets of tokens, and of shuffled programs."""
        if PROGRAM not in self._metadata["explainers"]:
            message = (
                f"{self.explanations.uri} holds no programs, so that the scorer {PROGRAM} has nothing to run: use "
                "other scorers, such as detection."
            )
            raise ConfigError(message)
        has_sets = TOKEN_SETS_NAME in self.explanations.paths()
        token_sets = read_explanations(self.explanations, TOKEN_SETS_NAME) if has_sets else iter(())
        lists = (
            (PROGRAM, _programs(self.explanations)),
            (PROGRAM, token_sets),
            (SHUFFLED, _shuffled(self.explanations, self.seed)),
        )
        for number, (name, explanations) in enumerate(lists):
            blocks = _blocks(explanations, self.config.block_features)
            while some := list(islice(blocks, _BLOCKS_AT_ONCE)):
                named = {f"{PROGRAM}-{number}-{first:07d}.parquet": block for first, block in some}
                missing = {each: block for each, block in named.items() if not self.draft.has_work(each)}
                self._write_program_scores(name, missing)
                yield from named

    def _write_program_scores(self, name: str, blocks: dict[str, list[Explanation]]) -> None:
        if not blocks:
            return
        scorer = self._scorer(0 if name == SHUFFLED else self.config.resamples)
        scores = in_parallel(partial(_program_scores, scorer, name), list(chain.from_iterable(blocks.values())))
        for work_name, block in blocks.items():
            with self.draft.stage_work(work_name) as path:
                write_scores(path, chain.from_iterable(islice(scores, len(block))))

    def _judged(self, name: str) -> Iterator[str]:
        """Working files with the scores that a language model, or another package's scorer, gives."""
        scorer: Scorer | None = None
        sampler: ExampleSampler | None = None
        asked = self.config.scorers.index(name)
        for first, block in _blocks(read_explanations(self.explanations), self.config.block_features):
            work_name = f"judged-{asked}-{first:07d}.parquet"
            if not self.draft.has_work(work_name):
                sampler = sampler or self._sampler()
                scorer = scorer or SCORERS.new(name, self.config, self.judge, self.seed, self.material)
                with self.draft.stage_work(work_name) as path:
                    write_scores(path, scorer.score(map(sampler.case, block)))
            yield work_name

    def _heldout(self) -> tuple[Tokens, Firings]:
        """Held-out tokens and firings; read once, when they are needed."""
        if self._read is None:
            self._read = self.material.read("heldout", self.config.max_tokens, self.seed, self.material.strings())
            documents = np.unique(self._read[0].document_N)
            self._refuse_seen(documents)
            read = {"num_tokens": len(self._read[0]), **self._read[1].filtered(), "documents": documents.tolist()}
            with self.draft.stage_work(_READ_NAME) as path:
                path.write_text(json.dumps(read))
        return self._read

    def _refuse_seen(self, documents: NDArray[np.int32]) -> None:
        """No document may be both explained from and scored on."""
        seen = set(self._metadata["searched"].get("documents", ()))
        for explanation in read_explanations(self.explanations):
            seen.update(explanation.documents)
        both = seen & set(documents.tolist())
        if both:
            message = (
                f"{self.explanations.uri} was made from documents that are held out, such as {min(both)}: its scores "
                "would mean nothing. Run explain again."
            )
            raise DamagedArtifact(message)

    def _scorer(self, resamples: int) -> ProgramScorer:
        tokens, firings = self._heldout()
        if self._context is None:
            self._context = Context(tokens)
            self._context.prepare()
        threshold = cast(float, self.threshold)  # there are programs, so it was recorded
        return ProgramScorer(self._context, firings, self.material.maxima(), threshold, resamples, self.seed)

    def _sampler(self) -> ExampleSampler:
        tokens, firings = self._heldout()
        return ExampleSampler(tokens, firings, self._neighbours(), self.config.examples, self.seed)

    def _neighbours(self) -> NDArray[np.int32]:
        """The features of the most similar directions [F, n]: those that find kept, where they are enough."""
        wanted, material = self.config.examples.neighbours, self.material
        if material.features.manifest.config["neighbours"] >= wanted:
            return material.found.nearest("decoder", wanted)
        from mistudio.find.neighbours import nearest_directions
        from mistudio.sae import load_autoencoder

        return nearest_directions(load_autoencoder(material.sae).W_dec, wanted).other

    def _publish(self) -> Summary:
        read = json.loads(self.draft.work_file(_READ_NAME).read_bytes())
        content = summarise(
            read_score_table(self.draft.file(SCORES_NAME)),
            read_explanations(self.explanations),
            self.material.found.column("count").to_numpy(),
            self.material.found.column("density").to_numpy(),
        )
        content |= {"threshold": self.threshold, "heldout": read}
        content["spending"] = self.judge.spending.totals() if self.judge is not None else None
        self.draft.write(SUMMARY_NAME, json.dumps(content, indent=1, sort_keys=True).encode())
        filtered = {name: read[name] for name in ("filtered_tokens",) if name in read}
        return {**content["headlines"], "tokens": read["num_tokens"], **filtered, "documents": len(read["documents"])}


def _program_scores(scorer: ProgramScorer, name: str, explanation: Explanation) -> list[Score]:
    """All figures of one program; of an explanation without one, NaN and a failure."""
    num_tokens = len(scorer.context)
    program = Program.from_json(explanation.program) if explanation.program is not None else Program()
    failures = 0 if explanation.program is not None else num_tokens
    found = []
    for figure in scorer.score(scorer.run(program), explanation.feature):
        value, low, high = (math.nan,) * 3 if failures else figure[1:]
        score = Score(
            explanation.feature, explanation.explainer, name, figure.metric, value, low, high, num_tokens, failures
        )
        found.append(score)
    return found


def _programs(explanations: Artifact) -> Iterator[Explanation]:
    """What the program explainer said."""
    return (each for each in read_explanations(explanations) if each.explainer == PROGRAM)


def _shuffled(explanations: Artifact, seed: int) -> Iterator[Explanation]:
    """Each program as if it were that of another feature; no program keeps its own."""
    texts = [each.program for each in _programs(explanations) if each.program is not None]
    order = np.random.default_rng(seed).permutation(len(texts))
    following = np.empty_like(order)
    following[order] = np.roll(order, 1)
    written = (each for each in _programs(explanations) if each.program is not None)
    for other, each in zip(following.tolist(), written, strict=True):
        if len(texts) > 1:
            yield each.model_copy(update={"program": texts[other]})


def _blocks(explanations: Iterable[Explanation], size: int) -> Iterator[tuple[int, list[Explanation]]]:
    """Some at a time, with the number of the first."""
    left, first = iter(explanations), 0
    while block := list(islice(left, size)):
        yield first, block
        first += len(block)
