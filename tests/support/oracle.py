"""A judge that answers by rule: it reads the explanation out of a prompt, and applies it to the texts there.

Its explanations read ``one of: w001, w002``. It can stand behind a ``ScriptedServer``, or answer requests directly.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mistudio.explain.judge import AnswerToken, Chat, Embedding, Judge, Likelihood, Reply, Request, Spending
from mistudio.explain.records import Example, Explanation
from mistudio.score.records import Case
from tests.support.scripted_server import Answer

NUM_WORDS = 400
TOKENS = 32
WORDS = tuple(f" w{number:03d}" for number in range(NUM_WORDS))
_WORD = re.compile(r"w\d{3}")


class Oracle:
    """Says of a text exactly what the explanation says."""

    def chat(self, system: str, prompt: str) -> Answer:
        head, *lines = prompt.split("\n")
        fits = set(_WORD.findall(json.loads(head.removeprefix("Description: "))))
        shown = [json.loads(line.partition(": ")[2]) for line in lines if '"' in line]
        if lines[0].startswith("1: "):
            return numbers([9 if _fits(token, fits) else 0 for token in shown])
        if "intruder" in system:
            without = [place for place, text in enumerate(shown, start=1) if not _fits(text, fits)]
            return Answer(json.dumps({"intruder": without[0] if len(without) == 1 else 1 + len(prompt) % len(shown)}))
        marks = re.search(r"stand between (\S+) and (\S+)\.", system)
        if marks:
            return numbers([int(_marked_fit(text, marks[1], marks[2], fits)) for text in shown])
        return numbers([int(_fits(text, fits)) for text in shown])

    def losses(self, text: str) -> list[tuple[str, float]]:
        """Words that it was told of before are no surprise."""
        told, _, shown = text.partition("\n\n")
        fits = set(_WORD.findall(told))
        pieces = re.findall(r"\s*\S+", shown)
        return [(f"{told}\n\n", -50.0), *((piece, -0.5 if _fits(piece, fits) else -5.0) for piece in pieces)]

    def embed(self, text: str) -> list[float]:
        """How often each word comes."""
        found = _WORD.findall(text)
        return np.bincount([int(word[1:]) for word in found], minlength=NUM_WORDS).astype(float).tolist()


class Direct(Judge):
    """Answers requests without a server, as one would that gives log-probabilities."""

    def __init__(self, oracle: Oracle | None = None) -> None:
        self.model, self.spending, self.oracle = "oracle", Spending(), oracle or Oracle()

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        return map(self._reply, requests)

    def _reply(self, request: Request) -> Reply:
        match request:
            case Chat():
                answer = self.oracle.chat(request.system, request.prompt)
                tokens = tuple(AnswerToken(text, tuple(others)) for text, others in answer.tokens or ()) or None
                return Reply(text=answer.text, tokens=tokens)
            case Likelihood():
                losses = [value for _, value in self.oracle.losses(request.prompt + request.text)[1:]]
                return Reply(loss=-sum(losses) / len(losses))
            case Embedding():
                return Reply(vectors=tuple(tuple(self.oracle.embed(text)) for text in request.texts))


def numbers(values: Sequence[int]) -> Answer:
    """A JSON list, and log-probabilities that leave little doubt about each number."""
    tokens: list[tuple[str, list[tuple[str, float]]]] = []
    for place, value in enumerate(values):
        tokens.append(("[" if place == 0 else ", ", []))
        tokens.append((str(value), [(str(value), -0.05), (str(1 - value if value in (0, 1) else 5), -3.0)]))
    tokens.append(("]", []))
    return Answer("".join(text for text, _ in tokens), tokens)


def planted_words(num_features: int, each: int = 8) -> list[tuple[int, ...]]:
    """The words that each feature fires on; no two features share one."""
    return [tuple(range(feature * each, (feature + 1) * each)) for feature in range(num_features)]


def planted_cases(num_features: int, num_examples: int, seed: int = 0) -> list[Case]:
    """True explanations of planted features, each with as many examples of both kinds, two examples a document."""
    draw = np.random.default_rng(seed)
    cases = []
    for feature, own in enumerate(planted_words(num_features)):
        others = np.setdiff1d(np.arange(NUM_WORDS), own)
        examples = []
        for number in range(2 * num_examples):
            words = draw.choice(others, TOKENS)
            if number % 2:
                places = draw.choice(TOKENS, draw.integers(1, 4), replace=False)
                words[places] = draw.choice(own, len(places))
            examples.append(_example(words, own, number, draw))
        cases.append(Case(explain_by(feature, own), tuple(examples)))
    return cases


def explain_by(feature: int, words: Sequence[int]) -> Explanation:
    text = f"one of: {', '.join(WORDS[word].strip() for word in words)}"
    return Explanation(feature=feature, explainer="oracle", text=text)


def explained_by_another(cases: Sequence[Case]) -> list[Case]:
    """Each feature's examples under the explanation of the next."""
    texts = [case.explanation.text for case in cases]
    return [
        case._replace(explanation=case.explanation.model_copy(update={"text": text}))
        for case, text in zip(cases, [*texts[1:], texts[0]], strict=True)
    ]


def shuffled(cases: Sequence[Case], seed: int = 0) -> list[Case]:
    """The same explanations and texts, the activations of each text drawn from another text's, in random places."""
    draw = np.random.default_rng(seed)
    return [case._replace(examples=tuple(_mixed(case.examples, draw))) for case in cases]


def _mixed(examples: Sequence[Example], draw: np.random.Generator) -> Iterator[Example]:
    values = [draw.permutation(examples[place].values) for place in draw.permutation(len(examples))]
    for example, drawn in zip(examples, values, strict=True):
        yield example._replace(values=tuple(drawn.tolist()), kind="top" if drawn.max() > 0 else "random")


def _example(words: np.ndarray, own: Sequence[int], number: int, draw: np.random.Generator) -> Example:
    values = np.isin(words, own) * draw.uniform(0.85, 1.15, len(words))
    return Example(
        kind="sampled" if number % 2 else "random",
        tokens=tuple(WORDS[word] for word in words),
        values=tuple(values.tolist()),
        peak=int(values.argmax()),
        document=number // 2,
        sequence=number,
        position=int(values.argmax()),
        task="planted",
    )


def _fits(text: str, fits: set[str]) -> bool:
    return any(word in fits for word in _WORD.findall(text))


def _marked_fit(text: str, opening: str, closing: str, fits: set[str]) -> bool:
    inside = re.findall(f"{re.escape(opening)}(.*?){re.escape(closing)}", text)
    return all(word in fits for piece in inside for word in _WORD.findall(piece))
