"""A judge on this machine: a causal language model in Hugging Face format.

It writes with the chat template of its tokenizer where there is one (:mod:`mistudio.explain.llm_writing`). A text's
vector is the mean of its last hidden states.

Shape legend: B texts of a batch, T tokens, V vocabulary, D width of the model.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from jinja2 import TemplateError
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.explain.judge import (
    Chat,
    Embedding,
    Likelihood,
    Reply,
    Request,
    Spending,
    Usage,
    as_asked,
    recipe_of,
    with_twice_the_room,
)
from mistudio.explain.llm_cache import AnswerCache
from mistudio.explain.llm_checks import Malformed, check_reply
from mistudio.explain.llm_config import LocalModelConfig
from mistudio.explain.llm_writing import Writer
from mistudio.subject import load_subject, resolve_source

_AHEAD = 4  # batches of requests that are looked at together: where one answer has ended, another one begins
Item = TypeVar("Item")


class LocalModel:
    """Answers requests with a model in memory."""

    def __init__(self, config: LocalModelConfig, answers: Path | None = None) -> None:
        """Load the model. Answers are kept in the folder ``answers``, if one is given.

        Raises:
            SubjectError: it cannot be loaded, or is not causal.
        """
        source = resolve_source(config.model)
        subject = load_subject(source, config.subject)
        if not subject.is_causal:
            message = f"{source.name} is an encoder: it writes no text. Use a causal language model as the judge."
            raise SubjectError(message)
        self.config, self.model, self.spending = config, source.name, Spending()
        self._subject, self._cache, self._used = subject, AnswerCache(answers), set[str]()
        self._writer = Writer(subject, config.batch_size)
        self._identity = (source.digest, {"dtype": subject.dtype_name, "quantization": config.subject.quantization})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the answers; the model goes with the object."""
        self._cache.close()

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in their order; ``batch_size`` of them are computed at a time."""
        source = iter(requests)
        while batch := [self._with_room(one) for one in islice(source, _AHEAD * self.config.batch_size)]:
            replies = self._answers(batch)
            again = {
                request: with_twice_the_room(request)
                for request in batch
                if isinstance(request, Chat) and replies[request].truncated
            }
            second = self._answers(list(again.values()))
            for request in batch:
                yield _final(second[again[request]], again[request]) if request in again else replies[request]

    def forget(self, requests: Iterable[Request]) -> None:
        """Drop what is remembered of the answers to these, so that they are asked for again."""
        digest, settings = self._identity
        for request in map(self._with_room, requests):
            for sent in as_asked(request):
                self._cache.drop(recipe_of(digest, sent, settings))

    def _with_room(self, request: Request) -> Request:
        if not isinstance(request, Chat):
            return request
        limit = min(request.max_tokens, self.config.max_output_tokens) + self.config.thinking_tokens
        return request._replace(max_tokens=limit)

    def _answers(self, requests: Sequence[Request]) -> dict[Request, Reply]:
        """Each different request once, from memory or computed with those of its kind."""
        digest, settings = self._identity
        recipes = {request: recipe_of(digest, request, settings) for request in requests}
        replies = {
            request: reply
            for request, recipe in recipes.items()
            if (reply := self._cache.get(recipe, partial(check_reply, request)))
        }
        self.spending.found += len(replies)
        alike: dict[type[Request], list[Any]] = defaultdict(list)
        for request in recipes:
            if request not in replies:
                alike[type(request)].append(request)
        for request, computed in chain.from_iterable(map(self._compute, alike.values())):
            reply = replies[request] = _usable(request, computed)
            self.spending.failed += reply.failure is not None
            self.spending.answered += reply.failure is None
            if reply.failure is None:
                self._cache.put(recipes[request], reply)
        for request, reply in replies.items():
            if reply.failure is None and recipes[request] not in self._used:
                self._used.add(recipes[request])
                self.spending.use(reply.usage)
        return replies

    def _compute(self, group: Sequence[Any]) -> Iterator[tuple[Request, Reply]]:
        """Requests of one kind with their replies, in any order; those that do not fit into the model fail alone."""
        if isinstance(group[0], Embedding):
            yield from ((request, self._embed(request)) for request in group)
            return
        limit, able = self._subject.max_positions, dict[Any, list[int]]()
        for request in group:
            ids, room = self._ids(request), request.max_tokens if isinstance(request, Chat) else 0
            if limit is None or len(ids) + room <= limit:
                able[request] = ids
                continue
            failure = f"{len(ids)} tokens and an answer of {room} do not fit into {self.model}'s {limit}"
            yield request, Reply(failure=failure)
        if isinstance(group[0], Chat):
            yield from self._writer.write(able)
            return
        for some in _in_batches(list(able), self.config.batch_size):
            yield from zip(some, self._losses(some, [able[request] for request in some]), strict=True)

    def _ids(self, request: Chat | Likelihood) -> list[int]:
        tokenizer = self._subject.tokenizer
        if isinstance(request, Likelihood):
            return [*tokenizer(request.prompt)["input_ids"], *self._text_ids(request.text)]
        text = _chat_text(tokenizer, request)
        return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])

    def _text_ids(self, text: str) -> list[int]:
        return list(self._subject.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def _losses(self, requests: Sequence[Likelihood], ids: Sequence[list[int]]) -> list[Reply]:
        ids_BT, mask_BT = self._padded(ids)
        logits_BTV = self._subject.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        replies = []
        for row, (request, tokens) in enumerate(zip(requests, ids, strict=True)):
            first, stop = max(len(tokens) - len(self._text_ids(request.text)), 1), len(tokens)
            logprobs_TV = torch.log_softmax(logits_BTV[row, first - 1 : stop - 1].float(), dim=-1)
            chosen_T = logprobs_TV.gather(1, ids_BT[row, first:stop, None].to(logprobs_TV.device))
            loss = -float(chosen_T.mean()) if stop > first else 0.0
            replies.append(Reply(loss=loss, usage=Usage(len(tokens), 0)))
        return replies

    @torch.no_grad()
    def _embed(self, request: Embedding) -> Reply:
        limit, special = self._subject.max_positions, self._subject.tokenizer.all_special_ids
        vectors: list[tuple[float, ...]] = []
        used = 0
        for texts in _in_batches(request.texts, self.config.batch_size):
            ids = [list(self._subject.tokenizer(text)["input_ids"])[:limit] or [self._pad_id()] for text in texts]
            ids_BT, mask_BT = self._padded(ids)
            states_BTD = self._subject.model(ids_BT, attention_mask=mask_BT, output_hidden_states=True).hidden_states[
                -1
            ]
            counts_BT = mask_BT.bool() & ~torch.isin(ids_BT, torch.tensor(special, device=ids_BT.device))
            # A text of special tokens alone still gets a vector.
            counts_BT |= mask_BT.bool() & ~counts_BT.any(dim=1, keepdim=True)
            weights_BT1 = counts_BT[..., None].to(states_BTD.device, torch.float32)
            means_BD = (states_BTD.float() * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
            vectors += map(tuple, means_BD.tolist())
            used += sum(map(len, ids))
        return Reply(vectors=tuple(vectors), usage=Usage(used, 0))

    def _padded(self, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        width, pad = max(map(len, ids)), self._pad_id()
        rows = [(one + [pad] * (width - len(one)), [1] * len(one) + [0] * (width - len(one))) for one in ids]
        tensors = (torch.tensor([row[part] for row in rows], device=self._subject.device) for part in (0, 1))
        ids_BT, mask_BT = tensors
        return ids_BT, mask_BT

    def _pad_id(self) -> int:
        tokenizer = self._subject.tokenizer
        named = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        return next(int(one) for one in named if one is not None)


def _usable(request: Request, reply: Reply) -> Reply:
    """The reply, or what is wrong with it: a model whose numbers overflow gives losses and vectors that are none."""
    if reply.failure is not None:
        return reply
    try:
        return check_reply(request, reply)
    except Malformed as error:
        return Reply(failure=f"the model's answer cannot be used: {error}")


def _in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _final(reply: Reply, request: Chat) -> Reply:
    if not reply.truncated:
        return reply
    return reply._replace(failure=f"the answer was cut off at {request.max_tokens} tokens")


def _chat_text(tokenizer: Any, request: Chat) -> str:
    """The prompt as the model was taught to read it; some templates know no system part."""
    if not tokenizer.chat_template:
        return f"{request.system}\n\n{request.prompt}\n\nAnswer: "
    user = {"role": "user", "content": request.prompt}
    try:
        messages = [{"role": "system", "content": request.system}, user]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        messages = [{**user, "content": f"{request.system}\n\n{request.prompt}"}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
