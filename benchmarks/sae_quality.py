"""Variance left unexplained at equal tokens and equal L0, ours against SAELens, each architecture, several seeds.

Run by ``make bench-quality``, in the virtual environment of the peers. The activations of two language models are
captured once, a layer below the middle one that this project's defaults were chosen on. Both libraries are trained on
the same rows in the same order, for as many tokens; the fraction of variance unexplained and the L0 are of held-out
documents, of autoencoders as they are saved for use.

Both are tuned alike, with a seed of its own and looking at training rows only: the learning rate, from the library's
default (ours: near it) in factors of three until neither neighbour is better. Where a penalty keeps latents few,
SAELens's coefficient is searched for each learning rate until the L0 is the target; ours is steered to what SAELens
then reached, and a little less. Where SAELens's threshold lets fewer than k latents through on held-out documents, our
k is as much smaller. All else is as each library recommends. SAELens counts a latent as dead after 1,000 steps, more
than there are: here it does after as many tokens as ours.

Each run is kept in ``build/bench/quality``, and not done again. Prints a table and writes
``build/bench/sae_quality.json``.

Shape legend: N rows, D their width.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import time
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import Tensor

import mistudio
from benchmarks import reporting, subjects
from benchmarks.contenders import PENALISED, Ours, SAELens, Shape, our_config, saelens_config
from benchmarks.reporting import Row, row
from mistudio.activations import ActivationReader, CaptureConfig, ShuffledBatches, capture
from mistudio.artifacts import Artifact, InputRef, Store, open_artifact, open_store
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.sources import open_source
from mistudio.corpus.statistics import SPLITS
from mistudio.demo import DemoConfig, train_demo
from mistudio.subject import SubjectConfig, SubjectSource, load_tokenizer
from mistudio.subject.facts import load_config, num_layers
from mistudio.subject.source import artifact_source

FOLDER = Path("build/bench/quality")
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard")
LIBRARIES = ("ours", "saelens")
WIDTH, K, BATCH = 1024, 16, 1024
BUFFER_ROWS = 262_144
DEAD_AFTER_TOKENS = 200_000
TUNING_SEED = 1000
TUNED_ROWS = 16_384
FIRST_RATE = {"ours": 0.18 / WIDTH**0.5, "saelens": 3e-4}  # ours is half more than the default, for a short training
L0_TOLERANCE = 0.02
OUR_L0_SHARE = 0.95  # of SAELens's under a penalty: ours ends up to 4% above its target, and shall not be above

Result = dict[str, float]


def _digest(*folders: str) -> str:
    """Of the code in them, so that what other code trained is not found again."""
    paths = sorted(path for folder in folders for path in (Path(mistudio.__file__).parent / folder).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


CODE = {"ours": _digest("sae", "train"), "saelens": metadata.version("sae-lens")}


class Bench:
    """One language model's activations, and what was trained on them.

    Args:
        name: of the language model.
        activations: captured at one hook point.
        tokens: that each autoencoder is trained on.
    """

    def __init__(self, name: str, activations: Artifact, tokens: int) -> None:
        self.name, self.digest = name, activations.digest
        hook = str(activations.manifest.summary["hooks"])
        self.train, self.held_out = (ActivationReader(activations, hook, split) for split in SPLITS)
        self.shape = Shape(self.train.width, WIDTH, K, BATCH)
        self.num_steps = tokens // BATCH

    @cached_property
    def held_out_ND(self) -> Tensor:
        """All held-out rows."""
        return self.held_out.acts(0, len(self.held_out)).float()

    @cached_property
    def tuned_ND(self) -> Tensor:
        """Training rows that settings are chosen by."""
        return self.train.acts(0, min(TUNED_ROWS, len(self.train))).float()

    def run(self, library: str, architecture: str, seed: int, rate: float, sparsity: float) -> Result:
        """Train and measure once, or find it done.

        Args:
            library: ours or saelens.
            architecture: which.
            seed: of initialisation and of the order of rows.
            rate: peak learning rate.
            sparsity: k or the target L0 (ours), or the coefficient of a penalty (SAELens).
        """
        settings = [self.digest, CODE[library], architecture, seed, rate, sparsity, *self.shape, self.num_steps]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        path = FOLDER / self.name / f"{architecture}-{library}-{seed}-{key}.json"
        if not path.exists():
            started = time.perf_counter()
            train = self._ours if library == "ours" else self._saelens
            result = train(architecture, seed, rate, sparsity) | {"rate": rate, "sparsity": sparsity}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result | {"seconds": time.perf_counter() - started}, indent=1) + "\n")
        found: Result = json.loads(path.read_text())
        return found

    def tune(self, library: str, architecture: str, target_l0: float) -> tuple[float, float]:
        """Learning rate, and what makes it as sparse as asked, that leave least variance unexplained."""
        sparsities: dict[int, float] = {}
        scores: dict[int, float] = {}

        def score(power: int) -> float:
            if power not in scores:
                rate = FIRST_RATE[library] * 3.0**power
                sparsities[power] = self._sparsity(library, architecture, rate, target_l0)
                scores[power] = self.run(library, architecture, TUNING_SEED, rate, sparsities[power])["tuned_fvu"]
            return scores[power]

        best = 0
        while (better := min((best, best - 1, best + 1), key=score)) != best:
            best = better
        return FIRST_RATE[library] * 3.0**best, sparsities[best]

    def _sparsity(self, library: str, architecture: str, rate: float, target_l0: float) -> float:
        """What leads to the target: the target itself, or the coefficient that comes nearest to it."""
        if library == "ours" or architecture not in PENALISED:
            return target_l0
        low, high, coefficient = 0.0, math.inf, 2.0
        misses: dict[float, float] = {}
        for _ in range(8):
            l0 = self.run(library, architecture, TUNING_SEED, rate, coefficient)["tuned_l0"]
            misses[coefficient] = abs(l0 / target_l0 - 1)
            if misses[coefficient] < L0_TOLERANCE:
                break
            low, high = (coefficient, high) if l0 > target_l0 else (low, coefficient)
            coefficient = math.sqrt(low * high) if low and high < math.inf else coefficient * (4 if low else 0.25)
        return min(misses, key=misses.__getitem__)

    def _stream(self, seed: int) -> ShuffledBatches[Tensor]:
        return ShuffledBatches(self.train, BATCH, BUFFER_ROWS, seed)

    def _ours(self, architecture: str, seed: int, rate: float, sparsity: float) -> Result:
        config = our_config(architecture, self.shape, sparsity)
        stream = self._stream(seed)
        ours = Ours(config, stream, self.shape, self.num_steps, seed, learning_rate=rate)
        while not ours.learner.finished:
            ours.learner.learn(stream.next_batch())
        sae = ours.learner.finish()
        return self._measured(sae.encode, sae.decode)

    def _saelens(self, architecture: str, seed: int, rate: float, sparsity: float) -> Result:
        penalty = {"jumprelu": "l0_coefficient", "gated": "l1_coefficient", "standard": "l1_coefficient"}
        changes = {penalty[architecture]: sparsity} if architecture in penalty else {}
        config = saelens_config(architecture, self.shape, self.num_steps, **changes)
        theirs = SAELens(
            config,
            _batches(self._stream(seed)),
            self.shape,
            self.num_steps,
            seed=seed,
            lr=rate,
            dead_feature_window=DEAD_AFTER_TOKENS // BATCH,
        )
        stream = self._stream(seed)
        for _ in range(self.num_steps):
            theirs.step(stream.next_batch().float())
        sae = theirs.exported()
        return self._measured(sae.encode, sae.decode)

    @torch.no_grad()
    def _measured(self, encode: Any, decode: Any) -> Result:
        result = {}
        for name, x_ND in (("tuned", self.tuned_ND), ("held_out", self.held_out_ND)):
            missed, fired, total = 0.0, 0, float((x_ND - x_ND.mean(dim=0)).square().sum())
            for rows_ND in x_ND.split(8192):
                acts_NF = encode(rows_ND)
                missed += float((rows_ND - decode(acts_NF)).square().sum())
                fired += int((acts_NF > 0).sum())
            result |= {f"{name}_fvu": missed / total, f"{name}_l0": fired / len(x_ND)}
        return result


def _batches(stream: ShuffledBatches[Tensor]) -> Any:
    while True:
        yield stream.next_batch().float()


def compared(bench: Bench, architecture: str, num_seeds: int) -> list[Row]:
    """Tune and train both, and compare them seed by seed."""
    results = {}
    target = float(K)
    for library in reversed(LIBRARIES):
        rate, sparsity = bench.tune(library, architecture, target)
        results[library] = [bench.run(library, architecture, seed, rate, sparsity) for seed in range(num_seeds)]
        theirs = statistics.mean(each["held_out_l0"] for each in results[library])
        if architecture in PENALISED:
            target = OUR_L0_SHARE * theirs
        elif theirs < K * (1 - L0_TOLERANCE):
            target = float(math.floor(theirs))
    fvus = {library: [each["held_out_fvu"] for each in results[library]] for library in LIBRARIES}
    l0s = {library: statistics.mean(each["held_out_l0"] for each in results[library]) for library in LIBRARIES}
    differences = [ours - theirs for ours, theirs in zip(fvus["ours"], fvus["saelens"], strict=True)]
    mean = statistics.mean(differences)
    half_width = statistics.stdev(differences) / num_seeds**0.5 * float(student_t.ppf(0.975, num_seeds - 1))
    what = f"{bench.name}, {architecture}: FVU"
    means = {library: statistics.mean(values) for library, values in fvus.items()}
    settings = ", ".join(
        f"{library} L0 {l0s[library]:.2f}, learning rate {results[library][0]['rate']:.2g}" for library in LIBRARIES
    )
    holds = mean <= 0 and l0s["ours"] <= l0s["saelens"] * (1 + L0_TOLERANCE / 2)
    against = f"{means['ours']:.5f} to {means['saelens']:.5f}, 95% interval ± {half_width:.5f}, {num_seeds} seeds"
    return [
        row(f"{what}, ours less SAELens's", round(mean, 5), "FVU", f"{against}; {settings}", 0.0, holds),
    ]


def captured(store: Store, name: str, demo: str) -> Artifact:
    """Activations of a language model, of the layer below its middle."""
    source, corpus = _subject(store, name, demo)
    tokens = ingest(
        store,
        open_source(corpus, store),
        load_tokenizer(source),
        InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
        IngestConfig(context_length=128, held_out_fraction=0.1, max_tokens=1_500_000),
    ).artifact
    layer = num_layers(load_config(source)) // 2 - 1
    settings = CaptureConfig(hooks=(f"resid_post.{layer}",))
    return capture(store, tokens, source, SubjectConfig(device="cpu"), settings).artifact


def _subject(store: Store, name: str, demo: str) -> tuple[SubjectSource, str]:
    if name == "stories260K":
        return subjects.trained(), str(subjects.TEXT)
    artifact = open_artifact(store, demo, "subject") if demo else train_demo(store, DemoConfig(), 0)[0]
    return artifact_source(artifact), "python-docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="build/store", help="where the demo subject is, or will be made")
    parser.add_argument("--demo", default="", help="the demo subject, subject/...; default: that of mistudio demo")
    parser.add_argument("--subjects", nargs="+", default=["stories260K", "demo"], choices=["stories260K", "demo"])
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=600_000)
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    store, rows = open_store(chosen.store), []
    for name in chosen.subjects:
        bench = Bench(name, captured(store, name, chosen.demo), chosen.tokens)
        for architecture in chosen.architectures:
            rows += compared(bench, architecture, chosen.seeds)
    used = reporting.versions("mistudio", "sae-lens")
    title = f"Variance left unexplained, width {WIDTH}, k {K}, {chosen.tokens:,} tokens"
    reporting.publish("sae_quality", title, rows, reporting.describe_machine(), used)


if __name__ == "__main__":
    main()
