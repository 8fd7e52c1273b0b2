"""Intruder: of some texts all but one activate the feature; told what it fires on, does the judge find the other one?

The feature's texts are drawn from its held-out examples, so a description of what they share helps, and a wrong one
leaves the judge to guess. By chance one of five is right.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Chat, Judge, Reply, Request
from mistudio.explain.llm_answers import find_numbers, find_object
from mistudio.explain.prompts import DATA_NOTE, plain_text, quoted
from mistudio.score.bootstrap import mean
from mistudio.score.config import IntruderConfig, JudgeConfig
from mistudio.score.judging import ExampleScorer, Figure, Question, documents_of, pick_both
from mistudio.score.records import Case

_SYSTEM = f"""A feature of a language model fires on some tokens of a text. You are told what it fires on. All of the \
texts but one hold a token that the description fits. Find the one that holds none. {DATA_NOTE}

Answer with nothing but its number in JSON, such as {{"intruder": 3}}."""


class IntruderScorer(ExampleScorer[list[Question]]):
    """Share of the intruders found among ``choices`` texts; one in ``choices`` by chance."""

    name = "intruder"
    metrics = ("accuracy",)

    def __init__(
        self, judge: Judge, judged: JudgeConfig, intruder: IntruderConfig, resamples: int, seed: int = 0
    ) -> None:
        super().__init__(judge, judged, resamples, seed)
        self.choices = intruder.choices

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], list[Question]]:
        """Each text without activation, hidden among others drawn at random."""
        active, inactive = pick_both(case, self.config, draw)
        others = self.choices - 1
        if len(active) < others:
            return [], []
        requests, questions = [], []
        for intruder in inactive:
            texts = [plain_text(active[place]) for place in draw.choice(len(active), size=others, replace=False)]
            place = int(draw.integers(self.choices))
            texts.insert(place, plain_text(intruder))
            lines = [f"Text {number}: {quoted(text)}" for number, text in enumerate(texts, start=1)]
            prompt = "\n".join([f"Description: {quoted(case.explanation.text)}", *lines])
            requests.append(Chat(_SYSTEM, prompt, 24))
            questions.append(Question(intruder, texts[place], place + 1))
        return requests, questions

    def mark(self, case: Case, content: list[Question], replies: Sequence[Reply]) -> Iterator[Figure]:
        """Accuracy."""
        answers = [_chosen(reply, self.choices) for reply in replies]
        right_N = np.array([answer == one.truth for answer, one in zip(answers, content, strict=True)], dtype=float)
        document_N = documents_of([question.example for question in content])
        accuracy = mean(right_N, document_N, self.resamples, self.seed)
        yield Figure("accuracy", accuracy, len(content), sum(answer is None for answer in answers))


def _chosen(reply: Reply, choices: int) -> int | None:
    """The number that the judge names, if it is one of the texts'."""
    if reply.failure:
        return None
    named = find_object(reply.text, ["intruder"])
    listed = find_numbers(reply, 1)
    value = named["intruder"] if named else listed[0] if listed else reply.text.strip().rstrip(".")
    named_by = value.strip() if isinstance(value, str) else value
    if isinstance(named_by, bool):
        return None
    # Compared as it is: what is infinite, between two numbers or thousands of digits long names no text.
    return next((number for number in range(1, choices + 1) if named_by in (number, str(number))), None)
