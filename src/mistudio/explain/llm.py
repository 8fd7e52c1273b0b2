"""Explanations by a language model: three ways to show it what a feature fires on.

``max-activating`` shows texts with the tokens it fires on marked; ``contrastive`` adds texts that it does not fire on,
hard negatives first; ``token-activation-pairs`` lists every token with its activation from 0 to 10 (Bills et al. 2023,
"Language models can explain neurons in language models"). The model answers in JSON. What cannot be read is a failed
explanation that says why.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from mistudio.explain.config import LlmExplainerConfig
from mistudio.explain.judge import UNUSABLE, Chat, Judge, Reply, Request
from mistudio.explain.llm_answers import Tally, explanation_in, find_object, find_objects
from mistudio.explain.prompts import (
    DATA_NOTE,
    Marks,
    choose_marks,
    firing_places,
    marked_text,
    pick_active,
    pick_inactive,
    plain_text,
    prompt_digest,
    quoted,
    strengths,
)
from mistudio.explain.records import Evidence, Example, Explanation

_TASK = f"""You describe features of a language model. A feature fires on some tokens of a text and on no others. \
For each feature, find what the tokens it fires on have in common that other tokens lack: which tokens they are, what \
stands before or after them, or what the text is about. Prefer the narrowest description that covers nearly all of \
them. Do not mention the examples, the marks or the numbers. {DATA_NOTE}

Answer with nothing but one JSON object for each feature:
{{"feature": 1, "explanation": "one sentence that says what it fires on", "label": "at most five words"}}"""


class _Shown(NamedTuple):
    """One feature as it is shown."""

    feature: int
    lines: str
    documents: tuple[int, ...]


class _LlmExplainer(ABC):
    """Asks a judge about each feature; the classes below say what is shown."""

    name: str
    how: str

    def __init__(self, judge: Judge, llm: LlmExplainerConfig, seed: int = 0) -> None:
        self.judge, self.config, self.seed = judge, llm, seed

    def explain(self, features: Iterable[Evidence]) -> Iterator[Explanation]:
        """One explanation a feature, each as soon as it is there.

        Raises:
            InputError: the judge cannot be used, or none of its answers can.
        """
        silent: deque[Explanation] = deque()
        asked: deque[tuple[Chat, list[_Shown]]] = deque()
        tally = Tally(self.judge)
        for reply in self.judge.ask(self._requests(features, silent, asked)):
            chat, group = asked.popleft()
            seen = tuple(sorted({document for shown in group for document in shown.documents}))
            made = [
                self._explanation(chat, shown.feature, seen, reply, place) for place, shown in enumerate(group, start=1)
            ]
            useful = any(explanation.status == "explained" for explanation in made)
            tally.count([chat], reply, None if useful else made[0].text)
            yield from made
            while silent:
                yield silent.popleft()
        yield from silent
        tally.refuse_if_useless()

    def _requests(
        self, features: Iterable[Evidence], silent: deque[Explanation], asked: deque[tuple[Chat, list[_Shown]]]
    ) -> Iterator[Request]:
        """Prompts for the features that fire; the others are explained without asking."""
        firing = self._firing(features, silent)
        while group := list(islice(firing, self.config.features_per_prompt)):
            sections = [f"Feature {place}\n{shown.lines}" for place, shown in enumerate(group, start=1)]
            room = self.config.answer_tokens * len(group)
            chat = Chat(f"{_TASK}\n\n{self.how}", "\n\n".join(sections), room)
            asked.append((chat, group))
            yield chat

    def _firing(self, features: Iterable[Evidence], silent: deque[Explanation]) -> Iterator[_Shown]:
        for evidence in features:
            if any(example.is_active for example in evidence.examples):
                yield self._show(evidence)
            else:
                silent.append(self._silent(evidence))

    def _silent(self, evidence: Evidence) -> Explanation:
        if evidence.density == 0:
            text, status = "It never fires.", "dead"
        else:
            text, status = "There is no example of it firing to show.", "failed"
        return Explanation.model_validate(
            {"feature": evidence.feature, "explainer": self.name, "status": status, "text": text, "seed": self.seed}
        )

    def _show(self, evidence: Evidence) -> _Shown:
        examples = self.choose(evidence)
        marks = choose_marks(map(plain_text, examples))
        lines = [self.line(example, evidence, marks) for example in examples]
        if evidence.promoted and self.config.num_promoted:
            likelier = ", ".join(map(quoted, evidence.promoted[: self.config.num_promoted]))
            lines.append(f"When it fires, the model is likelier to go on with: {likelier}")
        if marks != ("<<", ">>"):
            lines.insert(0, f"(Here the marks are {marks[0]} and {marks[1]}.)")
        return _Shown(evidence.feature, "\n".join(lines), tuple(sorted({example.document for example in examples})))

    def choose(self, evidence: Evidence) -> list[Example]:
        """The examples that are shown."""
        return pick_active(evidence.examples, self.config.num_active)

    @abstractmethod
    def line(self, example: Example, evidence: Evidence, marks: Marks) -> str:
        """How an example is shown."""

    def _explanation(self, chat: Chat, feature: int, seen: tuple[int, ...], reply: Reply, place: int) -> Explanation:
        made: dict[str, Any] = {
            "feature": feature,
            "explainer": self.name,
            "model": self.judge.model,
            "prompt": prompt_digest(chat.system, chat.prompt),
            "seed": self.seed,
            "documents": seen,
        }
        answer = None if reply.failure else self._answer_for(reply.text, place)
        text, label = explanation_in(answer or {})
        if not text:
            made |= {"status": "failed", "text": reply.failure or UNUSABLE}
        else:
            made |= {"text": text, "label": label}
        return Explanation.model_validate(made)

    def _answer_for(self, text: str, place: int) -> dict[str, Any] | None:
        if self.config.features_per_prompt == 1:
            return find_object(text, ["explanation"])
        named = (place, str(place))
        return next((one for one in find_objects(text) if "explanation" in one and one.get("feature") in named), None)


class MaxActivatingExplainer(_LlmExplainer):
    """Shows texts with the tokens that the feature fires on marked."""

    name = "max-activating"
    how = "The tokens that a feature fires on stand between << and >>; how strongly, from 1 to 10, is listed after."

    def line(self, example: Example, evidence: Evidence, marks: Marks) -> str:
        """The marked text, and the marked tokens with their strengths."""
        places, values = firing_places(example), strengths(example, evidence.max_value)
        listed = ", ".join(f"{quoted(example.tokens[place])} {values[place]}" for place in places)
        return f"{quoted(marked_text(example, places, marks))} ({listed})"


class ContrastiveExplainer(MaxActivatingExplainer):
    """Shows texts that the feature does not fire on too."""

    name = "contrastive"
    how = (
        f"{MaxActivatingExplainer.how} In the texts after the word NOT it fires nowhere: "
        "your description must not fit them."
    )

    def choose(self, evidence: Evidence) -> list[Example]:
        """Active examples, then others."""
        return super().choose(evidence) + pick_inactive(evidence.examples, self.config.num_inactive)

    def line(self, example: Example, evidence: Evidence, marks: Marks) -> str:
        """The marked text, or the plain one behind NOT."""
        return super().line(example, evidence, marks) if example.is_active else f"NOT {quoted(plain_text(example))}"


class TokenActivationPairsExplainer(_LlmExplainer):
    """Lists every token with the feature's activation on it."""

    name = "token-activation-pairs"
    how = "Each line lists the tokens of a text, and after each how strongly the feature fires on it, from 0 to 10."

    def line(self, example: Example, evidence: Evidence, marks: Marks) -> str:
        """Pairs of token and strength."""
        values = strengths(example, evidence.max_value)
        return " ".join(f"{quoted(token)} {value}" for token, value in zip(example.tokens, values, strict=True))
