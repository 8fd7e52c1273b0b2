"""A service of texts for servers' tests: a tiny model and ``model.generate``, a thread a request."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mistudio.errors import InputError
from mistudio.steer.requests import Delta, Done, Event, Failed, Finished, GenerationRequest, TokenLogprob, Usage
from model_servers.steer.service_protocol import Busy, Draining
from tests.support.tiny import tiny_llama, tiny_tokenizer


class Description(BaseModel):
    subject: str
    has_chat_template: bool = False


@dataclass
class Stats:
    running: int
    waiting: int
    rows: int


class GeneratingService:
    """Generates with ``num_rows`` threads; ``num_waiting`` further requests wait."""

    name = "tiny"

    def __init__(self, folder: Path, num_rows: int = 4, num_waiting: int = 64) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(tiny_llama(folder).path).eval()
        self.tokenizer = tiny_tokenizer()
        self.num_rows, self.num_waiting = num_rows, num_waiting
        self.cancelled: list[GenerationRequest] = []
        self.is_draining = False
        self._tickets: set[_Ticket] = set()
        self._pool = ThreadPoolExecutor(num_rows)
        self._lock = threading.Lock()

    def describe(self) -> Description:
        return Description(subject=self.name)

    def stats(self) -> Stats:
        num = len(self._tickets)
        return Stats(min(num, self.num_rows), max(0, num - self.num_rows), self.num_rows)

    def prepare(self, request: GenerationRequest) -> tuple[GenerationRequest, list[int]]:
        if request.messages is not None:
            message = "This model has no chat template: ask /completions, or give one by --chat-template."
            raise InputError(message)
        ids = self.tokenizer(request.prompt)["input_ids"] if isinstance(request.prompt, str) else list(request.prompt)
        if any(each >= len(self.tokenizer) for each in ids):
            message = f"prompt has token {max(ids)}, but the model knows {len(self.tokenizer)}."
            raise InputError(message)
        return request, ids

    def submit(self, prepared: Any, on_event: Callable[[Event], None]) -> "_Ticket":
        with self._lock:
            if self.is_draining:
                raise Draining
            if len(self._tickets) >= self.num_rows + self.num_waiting:
                raise Busy("All rows are taken: try again.")
            ticket = _Ticket(self, *prepared, on_event)
            self._tickets.add(ticket)
        self._pool.submit(ticket.run)
        return ticket

    def drain(self, timeout_s: float) -> None:
        self.is_draining = True

    def close(self) -> None:
        for ticket in list(self._tickets):
            ticket.cancel()
        self._pool.shutdown()

    def done(self, ticket: "_Ticket") -> None:
        with self._lock:
            self._tickets.discard(ticket)


class _Ticket(BaseStreamer, StoppingCriteria):
    def __init__(self, service: GeneratingService, request: GenerationRequest, ids: list[int], on_event: Any) -> None:
        self.service, self.request, self.ids, self.on_event = service, request, ids, on_event
        self.is_cancelled = False
        self.written: list[int] = []
        self.text = ""
        self.is_prompt = True
        self.index = 0

    def cancel(self) -> None:
        if self in self.service._tickets and not self.is_cancelled:
            self.service.cancelled.append(self.request)
            self.is_cancelled = True

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.is_cancelled, dtype=torch.bool)

    def put(self, value: torch.Tensor) -> None:
        if self.is_prompt:
            self.is_prompt = False
            return
        self.written.append(int(value))
        text = self.service.tokenizer.decode(self.written, skip_special_tokens=True)
        new = "" if text.endswith("\ufffd") else text[len(self.text) :]
        self.text += new
        logprobs = (
            (TokenLogprob(new, int(value), -1.0, tuple(new.encode())),) if self.request.logprobs is not None else None
        )
        self.on_event(Delta(self.index, new, (int(value),), logprobs))

    def end(self) -> None:
        pass

    def run(self) -> None:
        try:
            total = 0
            limit = self.request.max_tokens or 64
            for self.index in range(self.request.n):
                self.is_prompt, self.written, self.text = True, [], ""
                with torch.no_grad():
                    self.service.model.generate(
                        torch.tensor([self.ids]),
                        attention_mask=torch.ones(1, len(self.ids)),
                        max_new_tokens=limit,
                        min_new_tokens=limit if self.request.ignore_eos else None,
                        do_sample=False,
                        streamer=self,
                        stopping_criteria=StoppingCriteriaList([self]),
                    )
                total += len(self.written)
                self.on_event(Finished(self.index, "length" if len(self.written) == limit else "stop"))
            self.service.done(self)
            if self.is_cancelled:
                self.on_event(Failed(InputError("cancelled")))
            self.on_event(Done(Usage(len(self.ids), total)))
        except Exception as error:
            self.service.done(self)
            self.on_event(Failed(error))
