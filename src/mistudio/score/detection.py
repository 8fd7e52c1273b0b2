"""Detection: told what a feature fires on, does the judge see which texts it fires on?"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Chat, Reply, Request
from mistudio.explain.prompts import DATA_NOTE, plain_text, quoted
from mistudio.score.judging import ExampleScorer, Figure, Question, in_groups, mark_two_way, pick_both
from mistudio.score.records import Case

_SYSTEM = f"""A feature of a language model fires on some tokens of a text. You are told what it fires on. For each \
text, decide whether it holds at least one token that the description fits: 1 if it does, 0 if not. About half of the \
texts do. {DATA_NOTE}

Answer with nothing but a JSON list of as many numbers as there are texts, in their order, such as [1, 0, 0, 1, 1]."""

Groups = list[list[Question]]


class DetectionScorer(ExampleScorer[Groups]):
    """Balanced accuracy of telling texts that activate a feature from others; 0.5 by chance."""

    name = "detection"
    metrics = ("balanced_accuracy", "auroc")

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], Groups]:
        """Texts of both kinds, mixed."""
        active, inactive = pick_both(case, self.config, draw)
        if not active or not inactive:
            return [], []
        questions = [Question(example, plain_text(example), int(example.is_active)) for example in active + inactive]
        groups = in_groups(questions, self.config.per_prompt, draw)
        return [list_of_texts(_SYSTEM, case, group, self.config.alternatives) for group in groups], groups

    def mark(self, case: Case, content: Groups, replies: Sequence[Reply]) -> Iterator[Figure]:
        """Both figures."""
        return mark_two_way(content, replies, self.resamples, self.seed)


def list_of_texts(system: str, case: Case, group: Sequence[Question], alternatives: int) -> Chat:
    """A request that shows the explanation and some texts, and asks for a number for each."""
    lines = [f"Text {place}: {quoted(question.text)}" for place, question in enumerate(group, start=1)]
    prompt = "\n".join([f"Description: {quoted(case.explanation.text)}", *lines, f"{len(group)} numbers:"])
    return Chat(system, prompt, 16 + 4 * len(group), alternatives)
