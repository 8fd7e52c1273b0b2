"""Fuzzing: told what a feature fires on, does the judge see whether the right tokens of a text are marked?

Each example that the feature fires on is shown twice, in different prompts: with the tokens that it fires on marked,
and with as many others of the same text. So the description has to name the tokens, not only the kind of text.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Reply, Request
from mistudio.explain.prompts import DATA_NOTE, choose_marks, firing_places, marked_text, plain_text
from mistudio.explain.records import Example
from mistudio.score.detection import Groups, list_of_texts
from mistudio.score.judging import ExampleScorer, Figure, Question, in_groups, mark_two_way, shuffled_examples
from mistudio.score.records import Case

_SYSTEM = f"""A feature of a language model fires on some tokens of a text. You are told what it fires on. In each \
text some tokens stand between MARKS. Decide whether they are those that the description fits: 1 if they are, 0 if \
other tokens are marked. About half of the texts are marked rightly. {DATA_NOTE}

Answer with nothing but a JSON list of as many numbers as there are texts, in their order, such as [1, 0, 0, 1, 1]."""


class FuzzingScorer(ExampleScorer[Groups]):
    """Balanced accuracy of telling right marks from wrong ones; 0.5 by chance."""

    name = "fuzzing"
    metrics = ("balanced_accuracy", "auroc")

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], Groups]:
        """Two rounds of the same texts; what is marked rightly in one is marked wrongly in the other."""
        able = [
            one for one in shuffled_examples(case, draw) if one.is_active and any(value <= 0 for value in one.values)
        ]
        active = able[: self.config.num_active]
        marks = choose_marks(map(plain_text, active))
        system = _SYSTEM.replace("MARKS", f"{marks[0]} and {marks[1]}")
        groups: Groups = []
        for turn in (0, 1):
            questions = [_question(one, (place + turn) % 2, marks, draw) for place, one in enumerate(active)]
            groups += in_groups(questions, self.config.per_prompt, draw)
        return [list_of_texts(system, case, group, self.config.alternatives) for group in groups], groups

    def mark(self, case: Case, content: Groups, replies: Sequence[Reply]) -> Iterator[Figure]:
        """Both figures."""
        return mark_two_way(content, replies, self.resamples, self.seed)


def _question(example: Example, truth: int, marks: tuple[str, str], draw: np.random.Generator) -> Question:
    places = firing_places(example)
    if not truth:
        silent = [place for place, value in enumerate(example.values) if value <= 0]
        places = draw.choice(silent, size=min(len(places), len(silent)), replace=False).tolist()
    return Question(example, marked_text(example, places, marks), truth)
