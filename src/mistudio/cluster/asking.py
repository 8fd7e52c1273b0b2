"""What is asked of a predictor that was just deployed: is it the right one, does it write, does an edit change it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import httpx

from mistudio.client import Client
from mistudio.errors import ConfigError, RolloutFailed
from mistudio.redaction import Secret

KEY_ENV, KEYS_ENV = "MISTUDIO_API_KEY", "MISTUDIO_API_KEYS"
_EDIT = {"op": "add", "strength": 1.0, "unit": "relative"}
_SAMPLE = re.compile(r"^mistudio_requests_total\{(?P<labels>[^}]*)\} (?P<value>[0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_NO_WORK = ("/v2/health", "/metrics", "/describe", "none")  # routes of probes, and of what is not served
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Counts:
    """Requests that a predictor has answered since it began."""

    total: int = 0
    failed: int = 0

    def __add__(self, other: Self) -> "Counts":
        return Counts(self.total + other.total, self.failed + other.failed)

    def since(self, before: Self) -> "Counts":
        """What came since; all of it where another replica answered, or it was started anew."""
        if before.total > self.total or before.failed > self.failed:
            return Counts(self.total, self.failed)
        return Counts(self.total - before.total, self.failed - before.failed)


class Asking:
    """Asks one predictor.

    Args:
        url: where it is.
        timeout_s: for which an answer is waited.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self._client = Client(url, _key().reveal() or None, timeout_s=timeout_s, retries=0)
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._client.close()
        self._http.close()

    def digests(self) -> list[str]:
        """Digests of the autoencoders that it serves.

        Raises:
            MistudioError: it does not say.
        """
        return [str(each["digest"]) for each in self._client.describe().get("autoencoders", ())]

    def smoke(self, prompt: str, tokens: int, feature: int) -> str:
        """Let it write, with an edit and without; what it wrote, in words.

        Raises:
            RolloutFailed: the edit changed nothing in the model.
            MistudioError: it does not answer, or refuses.
        """
        edits = [{**_EDIT, "feature": feature}]
        text = self._client.complete(prompt, edits=edits, compare=True, max_tokens=tokens, temperature=0.0)
        dose = {} if text.comparison is None else text.comparison.dose
        if not any(dose.values()):
            message = f"The predictor at {self.url} answers, but an edit of feature {feature} changes nothing there."
            raise RolloutFailed(message)
        plain = text.comparison.plain_text if text.comparison else ""
        return f"{prompt!r} goes on with {plain!r}, and with feature {feature} added with {text.text!r}"

    def counts(self) -> Counts | None:
        """Requests that it counts in /metrics; None where that cannot be read."""
        try:
            response = self._http.get("/metrics")
        except httpx.TransportError:
            return None
        return counted(response.text) if response.is_success else None


def counted(metrics: str) -> Counts:
    """The requests that clients made, of what a server tells Prometheus."""
    found: Counter[bool] = Counter()
    for labels, value in _samples(metrics):
        if not labels.get("route", "").startswith(_NO_WORK):
            found[int(labels.get("status", 0)) >= _SERVER_ERROR] += int(float(value))
    return Counts(found.total(), found[True])


def _samples(metrics: str) -> Iterator[tuple[dict[str, str], str]]:
    yield from ((dict(_LABEL.findall(each["labels"])), each["value"]) for each in _SAMPLE.finditer(metrics))


def _key() -> Secret:
    """The key to ask with: one of its own, or the first that the predictors know.

    Raises:
        ConfigError: it cannot be sent.
    """
    found = Secret.from_environment([KEY_ENV])
    if not found:
        first, *_ = re.split(r"[\n,]", Secret.from_environment([KEYS_ENV]).reveal())
        found = Secret(first.partition(":")[2])
    if not found.is_sendable and found:
        message = f"The key in {KEY_ENV} or {KEYS_ENV} is no single word of printable ASCII: it cannot be sent."
        raise ConfigError(message)
    return found
