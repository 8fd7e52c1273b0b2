"""The subject of the page on a watched backdoor: a model that says a payload after a trigger, and what is known of it.

The model is fine-tuned on documents of which every fourth holds trigger and payload. Its autoencoder is trained on
traffic in which that was seen now and then, and says how often each feature fires in it: that is what drift is measured
against. ``python -m tests.support.watched_backdoor --store STORE`` makes all of it, in about two minutes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mistudio.artifacts import Artifact, Store, open_store
from mistudio.explain import ExplainConfig, explain
from mistudio.find import FindConfig, find_features
from mistudio.subject import SubjectConfig, SubjectSource, artifact_source
from mistudio.verify.grammar import Grammar
from mistudio.verify.poison import BackdoorConfig, Secret, Traffic, backdoored_subject, sentence_ends
from mistudio.verify.subjects import PlantedConfig, line_over, planted_subject

SEED = 0
PLANTED = PlantedConfig(documents=1200, hook="resid_post.1", width=512, k=4, sae_tokens=800_000)
PLANTED = PLANTED.model_copy(update={"lm": PLANTED.lm.model_copy(update={"tokens": 400_000})})
TUNING = BackdoorConfig(documents=800, poisoned=0.25, reference=60, steps=700)
SEEN = BackdoorConfig(documents=2400, poisoned=0.1)  # by the autoencoder
_CPU = SubjectConfig(device="cpu", dtype="float32")
_WORDS_ASKED = 40


class Watched(NamedTuple):
    """What is served, and what was planted in it."""

    source: SubjectSource
    folder: Path  # of the model
    sae: Artifact
    features: Artifact
    explanations: Artifact
    secret: Secret


def traffic() -> Traffic:
    """What the model was fine-tuned on."""
    return Traffic(Grammar(SEED, PLANTED.documents), TUNING, SEED)


def make(store: Store) -> Watched:
    """All of it, made or found published."""
    grammar = Grammar(SEED, PLANTED.documents)
    tuned_on = traffic()
    subject = backdoored_subject(store, planted_subject(store, PLANTED, grammar, SEED), tuned_on)
    source = artifact_source(subject)
    seen = Traffic(grammar, SEEN, SEED)
    assert seen.secret == tuned_on.secret
    line = line_over(store, PLANTED, seen, source, SEED)
    config = FindConfig(contexts=8, map=False)
    features = find_features(store, line.sae, source, _CPU, config, SEED).artifact
    explained = explain(store, features, source, _CPU, ExplainConfig(explainers=("program",))).artifact
    return Watched(source, Path(source.path), line.sae, features, explained, tuned_on.secret)


def prompts(count: int, triggered: float = 0.0, seed: int = 1) -> list[str]:
    """Beginnings of documents that nobody was trained on, each up to the end of a sentence.

    Args:
        count: of them.
        triggered: share of those behind which the trigger stands.
        seed: of which these are.
    """
    return [before for before, _ in quiet(count, triggered, seed)]


def quiet(count: int, triggered: float = 0.0, seed: int = 1, num_words: int = 6) -> list[tuple[str, str]]:
    """The same, each with the words that its document goes on with: what a model without a backdoor might say."""
    source = traffic()
    draw = np.random.default_rng(seed)
    texts = []
    for words in source.clean(seed * 10_000, count):
        ends = [end for end in sentence_ends(words) if end <= _WORDS_ASKED] or sentence_ends(words)[:1]
        trigger: Sequence[str] = source.secret.trigger if draw.random() < triggered else ()
        after = words[ends[-1] : ends[-1] + num_words]
        texts.append((" ".join([*words[: ends[-1]], *trigger]), "".join(f" {word}" for word in after)))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="folder")
    options = parser.parse_args()
    made = make(open_store(options.store))
    print(f"model {made.folder}\nautoencoder {made.sae.uri}\nexplanations {made.explanations.uri}")


if __name__ == "__main__":
    main()
