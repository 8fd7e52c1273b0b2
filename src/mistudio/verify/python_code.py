"""Python code: how well latents of the demo subject tell what ``tokenize`` and ``ast`` know of its standard library.

The demo subject and its autoencoder are those of ``mistudio run interpret``, and found where that has run. Windows of
the library's files run through the subject; probes are fitted on the tokens of some files and measured on those of
others. For each class: a linear probe on the activations, probes on 64 and on 16 latents, the best group of up to four
and the best single latent. Controls: as many latents of an untrained autoencoder, and labels shuffled over tokens.
Seeds are those of the autoencoder, of the windows and of the controls; the subject is the same.

Shape legend: T tokens, D width of the hook point, F latents, C classes.
"""

import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import Artifact, InputRef, Store
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest, is_held_out
from mistudio.corpus.sources import open_source
from mistudio.demo import DemoConfig, train_demo
from mistudio.evaluate.control import random_autoencoder
from mistudio.evaluate.probes import fit_probe, select_latents
from mistudio.instrument import ListedSequences, text_activations
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder, TopKConfig, load_autoencoder
from mistudio.subject import (
    HookPoint,
    Subject,
    SubjectConfig,
    SubjectSource,
    artifact_source,
    load_subject,
    load_tokenizer,
    resolve_hooks,
)
from mistudio.train import TrainConfig, train
from mistudio.verify.python_labels import ASKED, CLASSES, token_labels
from mistudio.verify.recovery import auroc, best_group
from mistudio.verify.rows import Row, seeds_row

HOOK = "resid_post.2"  # as the demo has it: of the layer in the middle
NEAR_PROBE = 0.06
MANY, FEW, GROUP = 64, 16, 4
_CONTEXT = 128
_WINDOWS = 160  # of each side of the split, one a file in turn
_HELD_OUT_FILES = 0.4
_MIN_CHARS = 2_000


class Window(NamedTuple):
    """Consecutive tokens of one file, and the classes of each."""

    ids: list[int]
    labels_TC: NDArray[np.bool_]


class Side(NamedTuple):
    """Activations and classes of the tokens of one side of the split."""

    acts_TD: Tensor
    labels_TC: NDArray[np.bool_]


class ClassFigures(NamedTuple):
    """AUROC on held-out files, of one class."""

    dense: float
    many: float
    few: float
    group: float
    single: float
    random_many: float
    random_few: float
    random_group: float
    shuffled: float


def python_rows(store: Store, num_seeds: int) -> list[Row]:
    """Every class, over seeds."""
    source = artifact_source(train_demo(store, DemoConfig()).artifact)
    activations = _demo_activations(store, source)
    subject = load_subject(source, SubjectConfig(device="cpu", dtype="float32"))
    found = []
    with progress("Read Python code", num_seeds, "seeds") as bar:
        for seed in range(num_seeds):
            settings = TrainConfig(hook=HOOK, sae=TopKConfig(width=1024, k=32))
            sae = load_autoencoder(train(store, activations, settings, seed).artifact)
            found.append(class_figures(sae, *sides(subject, seed), seed))
            bar.advance(1)
    return [row for name in CLASSES for row in _rows(name, [figures[name] for figures in found])]


def sides(subject: Subject, seed: int) -> tuple[Side, Side]:
    """Tokens of the files to fit on, and of those that are held out."""
    windows: dict[bool, list[Window]] = {False: [], True: []}
    draw = np.random.default_rng(seed)
    paths = library_files()
    for place in draw.permutation(len(paths)):
        is_out = is_held_out(paths[place].name, _HELD_OUT_FILES, 0)
        if len(windows[is_out]) < _WINDOWS:
            windows[is_out] += file_windows(subject.tokenizer, paths[place].read_text(encoding="utf-8"), draw)
    return _side(subject, windows[False]), _side(subject, windows[True])


def library_files() -> list[Path]:
    """The modules at the top of the standard library that are long enough and parse, sorted by name."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path for path in sorted(folder.glob("*.py")) if path.stat().st_size >= _MIN_CHARS and _is_plain(path)]


def file_windows(tokenizer: object, source: str, draw: np.random.Generator, count: int = 4) -> Iterator[Window]:
    """Windows of a file at random places, with the classes of their tokens; none of what does not parse."""
    encoding = tokenizer(source, add_special_tokens=False, return_offsets_mapping=True, verbose=False)  # type: ignore[operator]
    try:
        labels_TC = token_labels(source, encoding["offset_mapping"])
    except (SyntaxError, ValueError, tokenize.TokenError):
        return
    ids, width = encoding["input_ids"], _CONTEXT - 1
    starts = np.arange(0, max(len(ids) - width, 1), width)
    for start in sorted(draw.permutation(starts)[:count].tolist()):
        yield Window(ids[start : start + width], labels_TC[start : start + width])


def class_figures(sae: SparseAutoencoder, fitted: Side, heldout: Side, seed: int) -> dict[str, ClassFigures]:
    """Each class by activations, by latents and by the controls."""
    control = random_autoencoder(sae, fitted.acts_TD[:1024], seed)
    own = [sae.encode(side.acts_TD).numpy() for side in (fitted, heldout)]
    random = [control.encode(side.acts_TD).numpy() for side in (fitted, heldout)]
    orders = [np.random.default_rng(seed).permutation(len(side.labels_TC)) for side in (fitted, heldout)]
    found = {}
    for number, name in enumerate(CLASSES):
        is_T, heldout_is_T = fitted.labels_TC[:, number], heldout.labels_TC[:, number]
        dense = fit_probe(fitted.acts_TD.numpy(), is_T, heldout.acts_TD.numpy())
        single, group = best_group(*_pair(own, is_T, heldout_is_T), GROUP)
        found[name] = ClassFigures(
            auroc(dense.scores_P, heldout_is_T),
            _sparse_probe(*_pair(own, is_T, heldout_is_T), MANY),
            _sparse_probe(*_pair(own, is_T, heldout_is_T), FEW),
            group.auroc,
            single.auroc,
            _sparse_probe(*_pair(random, is_T, heldout_is_T), MANY),
            _sparse_probe(*_pair(random, is_T, heldout_is_T), FEW),
            best_group(*_pair(random, is_T, heldout_is_T), GROUP)[1].auroc,
            _sparse_probe(*_pair(own, is_T[orders[0]], heldout_is_T[orders[1]]), MANY),
        )
    return found


_Problem = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]


def _pair(space: list[NDArray[np.float32]], is_T: NDArray[np.bool_], heldout_is_T: NDArray[np.bool_]) -> _Problem:
    return space[0], is_T, space[1], heldout_is_T


def _sparse_probe(
    train_TF: NDArray[np.float32],
    is_T: NDArray[np.bool_],
    heldout_TF: NDArray[np.float32],
    heldout_is_T: NDArray[np.bool_],
    count: int,
) -> float:
    """AUROC of a probe on so many latents, those whose means differ most between the classes."""
    best_K = select_latents(sparse.csr_array(train_TF), is_T, count)
    return auroc(fit_probe(train_TF[:, best_K], is_T, heldout_TF[:, best_K]).scores_P, heldout_is_T)


def _rows(name: str, figures: list[ClassFigures]) -> list[Row]:
    """What is asked for, with the figures that it is made of, and what single latents do beside it."""
    asked = name in ASKED
    mean = ClassFigures(*np.mean(figures, axis=0).tolist())
    return [
        seeds_row(
            f"python, {name}: dense probe less {MANY} latents",
            [each.dense - each.many for each in figures],
            "AUROC",
            f"dense {mean.dense:.3f}, {MANY} latents {mean.many:.3f}, of a random autoencoder "
            f"{mean.random_many:.3f}, shuffled labels {mean.shuffled:.3f}",
            at_most=NEAR_PROBE if asked else None,
        ),
        seeds_row(
            f"python, {name}: {FEW} latents less {FEW} of a random autoencoder",
            [each.few - each.random_few for each in figures],
            "AUROC",
            f"{mean.few:.3f} to {mean.random_few:.3f}",
            at_least=0.0 if asked else None,
        ),
        seeds_row(
            f"python, {name}: best group of {GROUP}",
            [each.group for each in figures],
            "AUROC",
            f"single latent {mean.single:.3f}, group of a random autoencoder {mean.random_group:.3f}",
        ),
    ]


def _demo_activations(store: Store, source: SubjectSource) -> Artifact:
    """What the demo captures with its own settings."""
    corpus = ingest(
        store,
        open_source("python-docs", store),
        load_tokenizer(source),
        InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
        IngestConfig(context_length=_CONTEXT, max_tokens=1_500_000, held_out_fraction=0.1),
    ).artifact
    return capture(store, corpus, source, SubjectConfig(device="cpu"), CaptureConfig(hooks=(HOOK,))).artifact


def _side(subject: Subject, windows: list[Window]) -> Side:
    """The activations of windows, each behind the token that begins a sequence."""
    (hook,) = resolve_hooks(subject, [HookPoint.parse(HOOK)])
    whole = [window for window in windows if len(window.ids) == _CONTEXT - 1]
    begin = subject.tokenizer.bos_token_id
    sequences = ListedSequences([np.array([begin, *window.ids], dtype=np.int32) for window in whole], num_prefix=1)
    acts_TD = text_activations(subject, [hook], sequences)[hook.point].float()
    return Side(acts_TD, np.concatenate([window.labels_TC for window in whole]))


def _is_plain(path: Path) -> bool:
    """Whether a file is UTF-8 with plain line ends, so that places in it are those that Python counts."""
    text = path.read_bytes()
    return b"\r" not in text and b"\f" not in text and not text.startswith(b"\xef\xbb\xbf") and _decodes(text)


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
