"""Intervention: when the feature is strengthened, does the model go on as the explanation says?

The judge sees two continuations of one text, made with equally strong pushes: one along the feature, one along another
feature drawn at random. It says which of them fits the explanation. An explanation can be true of what a feature fires
on and still fail here: that is what this score is for.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Chat, Judge, Reply, Request
from mistudio.explain.llm_answers import find_object
from mistudio.explain.material import Material
from mistudio.explain.prompts import DATA_NOTE, plain_text, quoted
from mistudio.score.bootstrap import mean
from mistudio.score.config import SteeringConfig
from mistudio.score.judging import Figure, JudgeScorer, Question, documents_of, shuffled_examples
from mistudio.score.records import Case
from mistudio.score.steering import Steering, open_steering

_SYSTEM = f"""A feature of a language model fires on some tokens of a text, and makes some continuations likelier. You \
are told what it fires on, and shown a text with two continuations, A and B. In one of them the feature was made \
stronger, in the other one that has nothing to do with it. Say which continuation has more of what the description \
says. {DATA_NOTE}

Answer with nothing but JSON, such as {{"continuation": "A"}}."""
_LETTERS = "AB"


class InterventionScorer(JudgeScorer[list[Question]]):
    """Share of the pairs in which the judge finds the steered continuation; 0.5 by chance."""

    name = "intervention"
    metrics = ("accuracy",)

    def __init__(self, judge: Judge, steering: Steering, resamples: int, seed: int = 0) -> None:
        super().__init__(judge, resamples, seed)
        self.steering = steering

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], list[Question]]:
        """Continue texts that the feature does not fire on, steered and as a control."""
        silent = [one for one in shuffled_examples(case, draw) if not one.is_active][: self.steering.config.num_prompts]
        feature, others = case.explanation.feature, self.steering.num_features - 1
        ids_BT = self.steering.prompts(list(map(plain_text, silent)))
        if ids_BT is None or not others:
            return [], []
        control = (feature + 1 + int(draw.integers(others))) % self.steering.num_features
        steered, other = self.steering.continuations((feature, control), ids_BT)
        if steered is None or other is None:
            return [], []
        texts = self.steering.shown(ids_BT)
        truths = draw.integers(2, size=len(silent)).tolist()
        requests = [
            _request(case, text, (right, wrong) if truth == 0 else (wrong, right))
            for text, right, wrong, truth in zip(texts, steered, other, truths, strict=True)
        ]
        return requests, [Question(*each) for each in zip(silent, texts, truths, strict=True)]

    def mark(self, case: Case, content: list[Question], replies: Sequence[Reply]) -> Iterator[Figure]:
        """Accuracy."""
        answers = list(map(_chosen, replies))
        right_N = np.array([answer == one.truth for answer, one in zip(answers, content, strict=True)], dtype=float)
        document_N = documents_of([question.example for question in content])
        accuracy = mean(right_N, document_N, self.resamples, self.seed)
        yield Figure("accuracy", accuracy, len(content), sum(answer is None for answer in answers))


def open_intervention(
    judge: Judge, material: Material, steering: SteeringConfig, resamples: int, seed: int
) -> InterventionScorer:
    """The scorer, with the model and the decoder loaded.

    Raises:
        SubjectError: the model cannot be loaded, is an encoder, or is not the autoencoder's.
    """
    opened = open_steering(material.sae, material.source, material.subject_config, steering)
    return InterventionScorer(judge, opened, resamples, seed)


def _request(case: Case, text: str, pair: tuple[str, str]) -> Chat:
    lines = [f"{letter}: {quoted(continuation)}" for letter, continuation in zip(_LETTERS, pair, strict=True)]
    prompt = "\n".join([f"Description: {quoted(case.explanation.text)}", f"Text: {quoted(text)}", *lines])
    return Chat(_SYSTEM, prompt, 24)


def _chosen(reply: Reply) -> int | None:
    """The place of the letter that the judge names."""
    if reply.failure:
        return None
    named = find_object(reply.text, ["continuation"])
    letter = named["continuation"] if named else reply.text.strip().rstrip(".")
    return _LETTERS.index(letter.strip()) if isinstance(letter, str) and letter.strip() in ("A", "B") else None
