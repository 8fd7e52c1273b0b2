"""Scoring explanations block by block: each finished block is kept with the draft, so that a killed run goes on.

Shape legend: F features.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby, islice
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft, Summary
from mistudio.errors import ConfigError, DamagedArtifact
from mistudio.explain import TOKEN_SETS_NAME, read_explanations
from mistudio.explain.firings import Firings
from mistudio.explain.judge import Judge
from mistudio.explain.keeping import add_spending
from mistudio.explain.material import Material
from mistudio.explain.programs import Context, Program
from mistudio.explain.records import Explanation
from mistudio.explain.tables import holds_token_sets
from mistudio.explain.tokens import Tokens
from mistudio.parallel import in_parallel
from mistudio.progress import progress, say
from mistudio.score.config import PROGRAM, SCORERS, ScoreConfig
from mistudio.score.cost import most_requests
from mistudio.score.keeping import SHUFFLED, Share
from mistudio.score.program import ProgramScorer
from mistudio.score.records import Score, Scorer
from mistudio.score.sampling import ExampleSampler
from mistudio.score.summary import summarise
from mistudio.score.tables import (
    SUMMARY_NAME,
    file_rows,
    kept_rows,
    publish_scores,
    read_score_tables,
    write_scores,
)

_READ_NAME = "read.json"
_BLOCKS_AT_ONCE = 64  # in memory, and for one set of worker processes


class Scoring:
    """Scores block by block, and publishes.

    Args:
        draft: of the artifact.
        material: the features, and what they were found in.
        explanations: what is scored.
        config: who scores, and on how much.
        seed: of everything random.
        judge: the language model that scorers ask.
        shared: which features are scored now, and whose scores are kept.
        base: holds those.
    """

    def __init__(
        self,
        draft: Draft,
        material: Material,
        explanations: Artifact,
        config: ScoreConfig,
        seed: int,
        judge: Judge | None,
        shared: Share,
        base: Artifact | None,
    ) -> None:
        self.draft, self.material, self.explanations = draft, material, explanations
        self.shared, self.base = shared, base
        self.config, self.seed, self.judge = config, seed, judge
        # Of explanations that hold programs.
        self.threshold: float | None = explanations.manifest.config.get("program", {}).get("threshold")
        self._metadata = json.loads(explanations.file("explanations.json").read_bytes())
        self._read: tuple[Tokens, Firings] | None = None
        self._context: Context | None = None

    def run(self) -> Summary:
        """Score, put all together, and return the summary."""
        self._say_cost()
        blocks: dict[str, list[str]] = {}  # working files, by scorer
        with progress("Score explanations", len(self.config.scorers), "scorers") as bar:
            for name in self.config.scorers:
                for scorer, work_name in self._programs() if name == PROGRAM else self._judged(name):
                    blocks.setdefault(scorer, []).append(work_name)
                bar.advance()
        return self._publish(self._join(blocks))

    def _join(self, blocks: Mapping[str, Sequence[str]]) -> list[str]:
        """Put the blocks together by feature, and what is kept of the base among them; return the files' names."""
        scorers = [each for name in self.config.scorers for each in ((name, SHUFFLED) if name == PROGRAM else (name,))]
        streams: list[Iterable[pa.Table]] = []
        for scorer in scorers:
            streams.append(self._kept(scorer))
            by_list = groupby(blocks.get(scorer, ()), key=_list_of)  # each list of explanations is by feature
            streams += [file_rows([self.draft.work_file(name) for name in names]) for _, names in by_list]
        return publish_scores(self.draft, self.material.num_features, streams)

    def _kept(self, scorer: str) -> Iterable[pa.Table]:
        """What is kept of the base; programs are shuffled among all that there are now, so that those are new."""
        if self.base is None or scorer == SHUFFLED:
            return ()
        return kept_rows(self.base, scorer, self.shared.kept_F)

    def _say_cost(self) -> None:
        """Say what a language model will be asked, before it is."""
        asking = [name for name in self.config.scorers if SCORERS.find(name).needs_judge]
        new_F = self.shared.new_F
        if self.judge is None or not asking or not new_F.any():
            return
        told = [each for each in _of(new_F, read_explanations(self.explanations)) if each.status == "explained"]
        prompts = sum(most_requests(name, self.config) for name in asking) * len(told)
        say(
            f"{', '.join(asking)}: {self.judge.model} judges {len(told):,} explanations of "
            f"{len({each.feature for each in told}):,} features, in at most {prompts:,} requests; what it has answered "
            "before is not paid for again."
        )

    def _programs(self) -> Iterator[tuple[str, str]]:
        """Working files with the scores of programs, of the best sets of tokens, and of shuffled programs."""
        if PROGRAM not in self._metadata["explainers"]:
            message = (
                f"{self.explanations.uri} holds no programs, so that the scorer {PROGRAM} has nothing to run: use "
                "other scorers, such as detection."
            )
            raise ConfigError(message)
        has_sets = holds_token_sets(self.explanations)
        token_sets = read_explanations(self.explanations, TOKEN_SETS_NAME) if has_sets else iter(())
        new_F, scored_F = self.shared.new_F, self.shared.scored_F
        lists = (
            (PROGRAM, _of(new_F, _programs(self.explanations))),
            (PROGRAM, _of(new_F, token_sets)),
            (SHUFFLED, _shuffled(lambda: _of(scored_F, _programs(self.explanations)), self.seed)),
        )
        for number, (name, explanations) in enumerate(lists):
            blocks = _blocks(explanations, self.config.block_features)
            while some := list(islice(blocks, _BLOCKS_AT_ONCE)):
                named = {f"{PROGRAM}-{number}-{first:07d}.parquet": block for first, block in some}
                missing = {each: block for each, block in named.items() if not self.draft.has_work(each)}
                self._write_program_scores(name, missing)
                yield from ((name, work_name) for work_name in named)

    def _write_program_scores(self, name: str, blocks: dict[str, list[Explanation]]) -> None:
        if not blocks:
            return
        scorer = self._scorer(0 if name == SHUFFLED else self.config.resamples)
        scores = in_parallel(partial(_program_scores, scorer, name), list(chain.from_iterable(blocks.values())))
        for work_name, block in blocks.items():
            with self.draft.stage_work(work_name) as path:
                write_scores(path, chain.from_iterable(islice(scores, len(block))))

    def _judged(self, name: str) -> Iterator[tuple[str, str]]:
        """Working files with the scores that a language model, or another package's scorer, gives."""
        scorer: Scorer | None = None
        sampler: ExampleSampler | None = None
        asked = self.config.scorers.index(name)
        explanations = _of(self.shared.new_F, read_explanations(self.explanations))
        for first, block in _blocks(explanations, self.config.block_features):
            work_name = f"told-{asked}-{first:07d}.parquet"
            if not self.draft.has_work(work_name):
                sampler = sampler or self._sampler()
                scorer = scorer or SCORERS.new(name, self.config, self.judge, self.seed, self.material)
                with self.draft.stage_work(work_name) as path:
                    write_scores(path, scorer.score(map(sampler.case, block)))
            yield name, work_name

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

    def _shared_out(self) -> dict[str, int]:
        """Where not all features are explained and scored: of how many the figures are."""
        shared, said = self.shared, self.explanations.manifest.summary
        if self.base is None and self.config.only is None and "not_explained" not in said:
            return {}
        return {
            "selected": shared.num_selected,
            "kept_from_base": int(shared.kept_F.sum()),
            "scored": int(shared.scored_F.sum()),
            "selected_not_explained": shared.num_lacking,
            "not_explained": int((~shared.explained_F).sum()),
        }

    def _publish(self, names: Sequence[str]) -> Summary:
        before = json.loads(self.base.file(SUMMARY_NAME).read_bytes()) if self.base is not None else {}
        has_read = self.draft.has_work(_READ_NAME) or not before
        read = json.loads(self.draft.work_file(_READ_NAME).read_bytes()) if has_read else before["heldout"]
        content = summarise(
            read_score_tables(map(self.draft.file, names)),
            read_explanations(self.explanations),
            self.material.found.column("count").to_numpy(),
            self.material.found.column("density").to_numpy(),
        )
        content |= {"threshold": self.threshold, "heldout": read}
        content["headlines"] |= self._shared_out()
        content["spending"] = add_spending(before.get("spending"), self.judge)
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


def _of(wanted_F: NDArray[np.bool_], explanations: Iterable[Explanation]) -> Iterator[Explanation]:
    """Those of some features."""
    return (each for each in explanations if wanted_F[each.feature])


def _shuffled(programs: Callable[[], Iterable[Explanation]], seed: int) -> Iterator[Explanation]:
    """Each program as if it were that of another feature; no program keeps its own."""
    texts = [each.program for each in programs() if each.program is not None]
    order = np.random.default_rng(seed).permutation(len(texts))
    following = np.empty_like(order)
    following[order] = np.roll(order, 1)
    written = (each for each in programs() if each.program is not None)
    for other, each in zip(following.tolist(), written, strict=True):
        if len(texts) > 1:
            yield each.model_copy(update={"program": texts[other]})


def _list_of(work_name: str) -> str:
    """Which list of explanations a working file is of."""
    return work_name.rpartition("-")[0]


def _blocks(explanations: Iterable[Explanation], size: int) -> Iterator[tuple[int, list[Explanation]]]:
    """Some at a time, with the number of the first."""
    left, first = iter(explanations), 0
    while block := list(islice(left, size)):
        yield first, block
        first += len(block)
