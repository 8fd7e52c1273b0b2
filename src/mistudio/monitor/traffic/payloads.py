"""From a logged request and reply to the texts that the watched model had before it.

Each answer makes a sample with its prompt before it; a prompt without an answer is one by itself. Token ids and texts
do not go into one sample, for which ids a text has only the watched model's tokenizer knows: where a prompt is ids and
its answer a text, both are samples of their own, so that neither is lost.

Nothing here raises because of what a body holds: what cannot be read is counted by reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.instrument.messages import Message
from mistudio.monitor.records import Exchange, Origin, Sample
from mistudio.monitor.traffic.body_json import is_stream, parsed, unpacked
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.contents import Content, as_text
from mistudio.monitor.traffic.events import LoggedEvent
from mistudio.monitor.traffic.joining import Joined
from mistudio.monitor.traffic.reply_bodies import Answer, ReplyReader
from mistudio.monitor.traffic.reply_streams import StreamReader
from mistudio.monitor.traffic.request_bodies import Asked, RequestReader
from mistudio.monitor.traffic.unread import Problems, Unread

_MAX_TENANT_CHARACTERS = 256


class ExchangeRead(NamedTuple):
    """What became of a request and its reply.

    Attributes:
        exchange: None: there is nothing to watch in it, and ``problems`` says why.
        problems: how often what could not be read.
    """

    exchange: Exchange | None
    problems: Counter[Unread]


def read_exchange(joined: Joined, settings: TrafficSettings) -> ExchangeRead:
    """The texts of a request and its reply, either of which may be missing."""
    problems = Problems()
    asked = _asked(joined.request, settings, problems)
    answers = _answers(joined.response, settings, problems)
    samples = _bounded(samples_of(asked, answers, problems), settings, problems)
    problems = +problems
    if not samples:
        return ExchangeRead(None, problems or Problems({Unread.NO_TEXT: 1}))
    first = joined.first
    is_whole = joined.request is not None and joined.response is not None
    exchange = Exchange(first.id, first.time, origin_of(first, asked, settings), tuple(samples), is_whole)
    return ExchangeRead(exchange, problems)


def origin_of(event: LoggedEvent, asked: Asked, settings: TrafficSettings) -> Origin:
    """Where an exchange comes from.

    The endpoint is the revision that the logger names, such as canary; where it names none, the component.
    """
    service = event.service or asked.model
    model = service if settings.model_from == "service" else asked.model or service
    tenant = _header(event.metadata, settings.tenant_header) or asked.tenant
    return Origin(model, event.endpoint or event.component, event.namespace, tenant)


def samples_of(asked: Asked, answers: Sequence[Answer], problems: Problems) -> Iterator[Sample]:
    """Prompts with their answers."""
    prompts = list(asked.prompts)
    if answers and answers[0].is_of_responses:
        prompts = [(Message(role="user", content=each),) if isinstance(each, str) else each for each in prompts]
    each = asked.answers or _answers_to_each(len(prompts), answers)
    answered: set[int] = set()
    for answer in filter(lambda answer: answer.content, answers):  # one without a word leaves its prompt as it is
        number = 0 if len(prompts) == 1 else answer.index // each if each else len(prompts)
        if number >= len(prompts):
            problems[Unread.UNMATCHED] += bool(prompts)
            yield Sample(answer.content, 0)
        elif (sample := _together(prompts[number], answer.content, may_echo=asked.may_echo)) is not None:
            answered.add(number)
            yield sample
        else:
            yield Sample(answer.content, 0)
    for number, prompt in enumerate(prompts):
        if number not in answered:
            yield Sample(prompt, None)


def _asked(request: LoggedEvent | None, settings: TrafficSettings, problems: Problems) -> Asked:
    body = b"" if request is None else unpacked(request.body, settings.max_unpacked_bytes, problems)
    found = parsed(body, problems) if body else None
    return Asked() if found is None else RequestReader(settings.fields, problems).read(found)


def _answers(response: LoggedEvent | None, settings: TrafficSettings, problems: Problems) -> list[Answer]:
    body = b"" if response is None else unpacked(response.body, settings.max_unpacked_bytes, problems)
    if body and is_stream(body):
        return StreamReader(settings.fields, problems).read(body)
    found = parsed(body, problems) if body else None
    return [] if found is None else ReplyReader(settings.fields, problems).read(found)


def _answers_to_each(num_prompts: int, answers: Sequence[Answer]) -> int:
    """Answers to each prompt, where they are the same number for all; 0 where that cannot be."""
    return len(answers) // num_prompts if num_prompts and len(answers) % num_prompts == 0 else 0


def _together(prompt: Content, answer: str | tuple[int, ...], *, may_echo: bool) -> Sample | None:
    """A prompt and an answer as one; None where one is a text and the other is token ids."""
    if isinstance(prompt, str) and isinstance(answer, str):
        text = answer if may_echo and answer.startswith(prompt) else prompt + answer
        return Sample(text, len(prompt))
    if prompt and isinstance(prompt, tuple) and isinstance(prompt[0], Message):
        if not isinstance(answer, str):
            return None
        return Sample((*prompt, Message(role="assistant", content=answer)), len(prompt))
    if isinstance(prompt, tuple) and isinstance(answer, tuple):
        return Sample((*prompt, *answer), len(prompt))
    return None


def _bounded(samples: Iterator[Sample], settings: TrafficSettings, problems: Problems) -> list[Sample]:
    """The first so many samples that have content."""
    kept: list[Sample] = []
    for sample in samples:
        if not sample.content:
            problems[Unread.EMPTY] += 1
        elif len(kept) < settings.max_samples:
            kept.append(sample)
        else:
            problems[Unread.TOO_MANY] += 1
    return kept


def _header(metadata: str, name: str) -> str:
    """The first value of a header that the logger kept."""
    if not name or not metadata:
        return ""
    try:
        headers = parse_json(metadata, finite=False)
    except RefusedJSON:
        return ""
    found = headers.items() if isinstance(headers, dict) else ()
    value = next((value for key, value in found if key.lower() == name.lower()), None)
    value = value[0] if isinstance(value, list) and value else value
    return as_text(value[:_MAX_TENANT_CHARACTERS]) if isinstance(value, str) else ""
