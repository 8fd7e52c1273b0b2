"""A judge on this machine: a causal language model in Hugging Face format.

It writes greedily, with the chat template of its tokenizer where there is one, and stops when its JSON is whole; so it
also does with models that were not taught to stop. A text's vector is the mean of its last hidden states.

Shape legend: B texts of a batch, T tokens, V vocabulary, D width of the model, C considered tokens.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from jinja2 import TemplateError
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.explain.judge import (
    AnswerToken,
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
from mistudio.explain.llm_answers import is_complete
from mistudio.explain.llm_cache import AnswerCache
from mistudio.explain.llm_checks import LEAST_LOGPROB, Malformed, check_reply
from mistudio.explain.llm_config import LocalModelConfig
from mistudio.subject import load_subject, resolve_source


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
        self._identity = (source.digest, {"dtype": subject.dtype_name, "quantization": config.subject.quantization})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the answers; the model goes with the object."""
        self._cache.close()

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in their order; ``batch_size`` of them at a time."""
        source = iter(requests)
        while batch := [self._with_room(one) for one in islice(source, self.config.batch_size)]:
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
        alike: dict[tuple[Any, ...], list[Request]] = defaultdict(list)
        for request in recipes:
            if request not in replies:
                alike[_kind(request)].append(request)
        for group in alike.values():
            for request, computed in zip(group, self._compute(group), strict=True):
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

    @torch.no_grad()
    def _compute(self, group: Sequence[Any]) -> list[Reply]:
        """Replies to requests of one kind; those that do not fit into the model fail alone."""
        if isinstance(group[0], Embedding):
            return [self._embed(request) for request in group]
        ids = [self._ids(request) for request in group]
        limit = self._subject.max_positions
        room = group[0].max_tokens if isinstance(group[0], Chat) else 0
        fits = [limit is None or len(one) + room <= limit for one in ids]
        able = [place for place, it_fits in enumerate(fits) if it_fits]
        replies = [
            Reply(failure=f"{len(one)} tokens and an answer of {room} do not fit into {self.model}'s {limit}")
            for one in ids
        ]
        if able:
            compute = self._generate if isinstance(group[0], Chat) else self._losses
            for place, reply in zip(able, compute([group[at] for at in able], [ids[at] for at in able]), strict=True):
                replies[place] = reply
        return replies

    def _ids(self, request: Chat | Likelihood) -> list[int]:
        tokenizer = self._subject.tokenizer
        if isinstance(request, Likelihood):
            return [*tokenizer(request.prompt)["input_ids"], *self._text_ids(request.text)]
        text = _chat_text(tokenizer, request)
        return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])

    def _text_ids(self, text: str) -> list[int]:
        return list(self._subject.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _generate(self, requests: Sequence[Chat], ids: Sequence[list[int]]) -> list[Reply]:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        ids_BT, mask_BT = self._padded(ids, left=True)
        watch = _Watch(self._subject.tokenizer, ids_BT.shape[1], max(requests[0].alternatives, 1))
        written_BT = self._subject.model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=requests[0].max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=self._pad_id(),
            logits_processor=LogitsProcessorList([watch.look]),
            stopping_criteria=StoppingCriteriaList([watch.stop]),
        )[:, ids_BT.shape[1] :].cpu()
        return [
            self._written(request, len(prompt), written_T.tolist(), watch, row)
            for row, (request, prompt, written_T) in enumerate(zip(requests, ids, written_BT, strict=True))
        ]

    def _written(self, request: Chat, num_prompt: int, written: list[int], watch: "_Watch", row: int) -> Reply:
        """The reply in what was written, up to where the model or its JSON ended."""
        tokenizer = self._subject.tokenizer
        special = set(tokenizer.all_special_ids)
        end = next((place for place, token in enumerate(written) if token in special), len(written))
        text, tokens = tokenizer.decode(written[:end]), None
        if request.alternatives:
            tokens = tuple(_spelled(tokenizer, written[:end], place, watch.seen[place][row]) for place in range(end))
        is_cut = end == len(written) == request.max_tokens and not is_complete(text)
        return Reply(text=text, tokens=tokens, usage=Usage(num_prompt, end), truncated=is_cut)

    def _losses(self, requests: Sequence[Likelihood], ids: Sequence[list[int]]) -> list[Reply]:
        ids_BT, mask_BT = self._padded(ids, left=False)
        logits_BTV = self._subject.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        replies = []
        for row, (request, tokens) in enumerate(zip(requests, ids, strict=True)):
            first, stop = max(len(tokens) - len(self._text_ids(request.text)), 1), len(tokens)
            logprobs_TV = torch.log_softmax(logits_BTV[row, first - 1 : stop - 1].float(), dim=-1)
            chosen_T = logprobs_TV.gather(1, ids_BT[row, first:stop, None].to(logprobs_TV.device))
            loss = -float(chosen_T.mean()) if stop > first else 0.0
            replies.append(Reply(loss=loss, usage=Usage(len(tokens), 0)))
        return replies

    def _embed(self, request: Embedding) -> Reply:
        limit, special = self._subject.max_positions, self._subject.tokenizer.all_special_ids
        vectors: list[tuple[float, ...]] = []
        used = 0
        for start in range(0, len(request.texts), self.config.batch_size):
            texts = request.texts[start : start + self.config.batch_size]
            ids = [list(self._subject.tokenizer(text)["input_ids"])[:limit] or [self._pad_id()] for text in texts]
            ids_BT, mask_BT = self._padded(ids, left=False)
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

    def _padded(self, ids: Sequence[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        width, pad = max(map(len, ids)), self._pad_id()
        rows = [
            ([pad] * (width - len(one)) + one, [0] * (width - len(one)) + [1] * len(one))
            if left
            else (one + [pad] * (width - len(one)), [1] * len(one) + [0] * (width - len(one)))
            for one in ids
        ]
        tensors = (torch.tensor([row[part] for row in rows], device=self._subject.device) for part in (0, 1))
        ids_BT, mask_BT = tensors
        return ids_BT, mask_BT

    def _pad_id(self) -> int:
        tokenizer = self._subject.tokenizer
        named = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        return next(int(one) for one in named if one is not None)


class _Watch:
    """Looks on while a model writes: keeps the likeliest tokens of each step, and ends what is whole."""

    def __init__(self, tokenizer: Any, num_prompt: int, considered: int) -> None:
        self.tokenizer, self.num_prompt, self.considered = tokenizer, num_prompt, considered
        self.seen: list[list[list[tuple[int, float]]]] = []  # by step and row: tokens and log-probabilities

    def look(self, _ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        best_BC = torch.log_softmax(logits_BV.float(), dim=-1).topk(self.considered)
        pairs = zip(best_BC.indices.tolist(), best_BC.values.tolist(), strict=True)
        self.seen.append([list(zip(tokens, logprobs, strict=True)) for tokens, logprobs in pairs])
        return logits_BV

    def stop(self, ids_BT: Tensor, _scores: Any, **_settings: Any) -> Tensor:
        written = self.tokenizer.batch_decode(ids_BT[:, self.num_prompt :], skip_special_tokens=True)
        return torch.tensor([is_complete(text) for text in written], device=ids_BT.device)


def _usable(request: Request, reply: Reply) -> Reply:
    """The reply, or what is wrong with it: a model whose numbers overflow gives losses and vectors that are none."""
    if reply.failure is not None:
        return reply
    try:
        return check_reply(request, reply)
    except Malformed as error:
        return Reply(failure=f"the model's answer cannot be used: {error}")


def _kind(request: Request) -> tuple[Any, ...]:
    """Requests of one kind can share a batch."""
    if isinstance(request, Chat):
        return (Chat, request.max_tokens, request.alternatives)
    return (type(request),)


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


def _bounded(logprob: float) -> float:
    """A log-probability in the range of those that are kept; of a model whose numbers overflowed that of nothing."""
    return max(logprob, LEAST_LOGPROB) if logprob <= 0 else LEAST_LOGPROB


def _spelled(tokenizer: Any, written: Sequence[int], place: int, seen: Sequence[tuple[int, float]]) -> AnswerToken:
    """A token as it continues the text before it, with what else was considered there."""
    before = tokenizer.decode(written[:place])

    def spell(token: int) -> str:
        return str(tokenizer.decode([*written[:place], token]))[len(before) :]

    return AnswerToken(spell(written[place]), tuple((spell(token), _bounded(logprob)) for token, logprob in seen))
