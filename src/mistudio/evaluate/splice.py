"""What the model loses when an autoencoder's reconstruction takes the place of its activations.

The same sequences run as they are, with zeros in the activation's place, and with the reconstruction of each
autoencoder spliced in. A transcoder reads at one hook point and is spliced in at another. Special tokens around
the text, which the autoencoder never saw, keep their activations. So do tokens beyond its norm limit, with zeros in
the others' place as with the reconstruction: what the one loses is held against what the other loses by the same
tokens. They are counted; predictions read off them are scored like all others, so that the clean loss does not depend
on the autoencoder. Causal models are scored on the next token;
encoders on tokens that are masked for the purpose (15%, as in BERT's training).
The masked places are replaced too, although the autoencoder was trained on text without masks: the prediction
is read off there, so at a late layer nothing else would tell.

Sequences come in a random order, in rounds. A batch runs to the hook point once and goes on from there in each way
(:mod:`mistudio.instrument.resume`); the output head is run where something is scored, a few predictions at a time.
Where a half-width is asked for, it ends when CE recovered of the first autoencoder is known that well; zeros and the
other autoencoders are run on as many sequences as are needed for that (:mod:`mistudio.evaluate.interval`). What a way
of running adds to the loss is measured against the clean run of the same sequences, and ``ce_zero`` and ``ce_spliced``
are that much more than the clean loss of all.

Shape legend: B sequences, T tokens, D width of the hook point, E of what the output head reads, V vocabulary,
N scored predictions, C of them at once, S drawn sequences.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.plan import like_lengths
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import SubjectError
from mistudio.evaluate.interval import (
    LEAST_SEQUENCES,
    Drawn,
    Run,
    are_zeros_enough,
    extra_loss,
    is_control_enough,
    mean_kl,
    more_needed,
    recovered_half_width,
)
from mistudio.instrument import Ends
from mistudio.instrument.resume import blocks_before, continue_to_head, has_own_head, head_logits, run_to
from mistudio.parallel import two_at_once
from mistudio.progress import Bar, progress
from mistudio.sae import NormLimit, SparseAutoencoder
from mistudio.subject import ResolvedHook, Subject, token_batch
from mistudio.subject.cost import pass_flop, subject_shape

BATCH_TOKENS = 2048
LOGIT_BYTES = 64 << 20  # of one run in float32, where the output head cannot be run apart and all logits are computed
COMPARED_LOGITS = 1 << 23  # at once, but never fewer than so many predictions:
COMPARED_LEAST = 128
_ROUND_TOKENS = 2048  # of a further round at least
_MASKED_SHARE = 0.15

Replace = Callable[[Tensor], Tensor]
Numbers = NDArray[np.int64]


class SpliceLosses(NamedTuple):
    """Means over the scored predictions, in nats."""

    predictions: int
    ce_clean: float
    ce_zero: float
    kl_zero: float  # from the clean distribution of the prediction to the one with zeros
    ce_spliced: float
    kl: float  # from the clean distribution to the one with the reconstruction
    filtered_tokens: int = 0  # beyond the norm limit, which kept their activations
    tokens: int = 0  # of all sequences that were run with the reconstruction
    ce_recovered_half_width: float | None = None  # of the 95% interval of ce_recovered

    @property
    def ce_recovered(self) -> float | None:
        """Share of the loss that zeroing causes and the reconstruction avoids; None where zeroing costs nothing."""
        gap = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_spliced) / gap if gap > 0 else None

    @property
    def kl_recovered(self) -> float | None:
        """Share of the divergence that zeroing causes and the reconstruction avoids; None where zeroing causes none."""
        return (self.kl_zero - self.kl) / self.kl_zero if self.kl_zero > 0 else None


def measure_splice(
    subject: Subject,
    ends: Ends | ResolvedHook,
    saes: Sequence[SparseAutoencoder],
    corpus: TokenCorpus,
    max_tokens: int,
    seed: int,
    half_width: float = 0.0,
) -> list[SpliceLosses]:
    """Losses with each autoencoder on held-out sequences drawn at random up to about ``max_tokens`` tokens.

    Args:
        subject: the model.
        ends: where the autoencoders read and write.
        saes: the one that decides when it is enough, then others that go along.
        corpus: sequences for the model.
        max_tokens: tokens to run at most.
        seed: of what is drawn.
        half_width: of the 95% interval of CE recovered, to end when it is reached; 0: run all, in every way.

    Returns:
        One entry an autoencoder; none where nothing can be asked: no held-out tokens, a model without output
        embeddings, or an encoder without a mask token.

    Raises:
        SubjectError: a loss is not finite.
    """
    if not _can_predict(subject):
        return []
    ends = ends if isinstance(ends, Ends) else Ends(ends, ends)
    generator = torch.Generator().manual_seed(seed)
    order_S = draw(corpus, max_tokens, generator)
    splicing = _Splicing(subject, ends, saes, corpus, order_S)
    at_once = two_at_once() if subject.device.type == "cpu" else nullcontext()
    with progress("Evaluate in the model", int(splicing.length_S.sum()), "tokens") as bar, at_once as pool:
        while number := splicing.next_round(half_width):
            splicing.run(number, half_width, generator, pool.map if pool else map, bar)
    return splicing.losses()


def draw(corpus: TokenCorpus, max_tokens: int, generator: torch.Generator) -> Numbers:
    """Numbers of held-out sequences in a random order, up to the one that reaches ``max_tokens``."""
    lengths_S = corpus.lengths("heldout")
    order_S: Numbers = torch.randperm(len(lengths_S), generator=generator).numpy()
    return order_S[: int(np.searchsorted(np.cumsum(lengths_S[order_S]), max_tokens)) + 1]


def splice_flop(
    subject: Subject,
    ends: Ends,
    num_saes: int,
    corpus: TokenCorpus,
    max_tokens: int,
    seed: int,
    half_width: float,
) -> tuple[float, int]:
    """FLOP of :func:`measure_splice` where it runs all tokens, and how many these are; 0 where nothing can be asked.

    Where it may end early, zeros and other autoencoders count on as many sequences as there are at first.
    """
    if not _can_predict(subject):
        return 0.0, 0
    length_S = corpus.lengths("heldout")[draw(corpus, max_tokens, torch.Generator().manual_seed(seed))]
    tokens, shape = int(length_S.sum()), subject_shape(subject)
    tried = int(length_S[:LEAST_SEQUENCES].sum()) if half_width else tokens
    before = blocks_before(ends.write)
    reaching = pass_flop(shape, tokens, corpus.context_length, blocks=before, head=False)
    going_on = pass_flop(shape, 2 * tokens + num_saes * tried, corpus.context_length, blocks=shape.num_layers - before)
    return reaching + going_on, tokens


class _Splicing:
    """Drawn sequences, and what is known of each after the rounds so far."""

    def __init__(
        self, subject: Subject, ends: Ends, saes: Sequence[SparseAutoencoder], corpus: TokenCorpus, order_S: Numbers
    ) -> None:
        self.subject, self.ends, self.corpus, self.order_S = subject, ends, corpus, order_S
        self.limits = _distinct_limits(saes)
        self.place_of = [_place(self.limits, sae) for sae in saes]
        # With zeros for each norm limit, then with each autoencoder.
        self.ways = [(place, _zeros_for(ends)) for place in range(len(self.limits))]
        self.ways += [(place, _reconstruction_of(sae)) for place, sae in zip(self.place_of, saes, strict=True)]
        self.length_S = corpus.lengths("heldout")[order_S]
        self.document_S = corpus.documents("heldout")[order_S].astype(np.int64)
        self.done = 0
        # Predictions, clean loss, tokens left out by each limit; then loss and divergence each way.
        self.known = np.full((2 + len(self.limits) + 2 * len(self.ways), len(order_S)), np.nan)

    def next_round(self, half_width: float) -> int:
        """How many sequences to run next; 0 where it is enough."""
        left = len(self.order_S) - self.done
        if not half_width:
            return left
        if not self.done:
            return min(LEAST_SEQUENCES, left)
        reached = recovered_half_width(self._drawn(), self._zeros(0), self._own(0))
        documents = len(np.unique(self.document_S[: self.done]))
        more = more_needed(int(self.length_S[: self.done].sum()), reached, half_width, documents)
        if not more:
            return 0
        ahead = np.cumsum(self.length_S[self.done :])
        return min(int(np.searchsorted(ahead, max(more, _ROUND_TOKENS))) + 1, left)

    def run(
        self,
        number: int,
        half_width: float,
        generator: torch.Generator,
        do_all: Callable[..., Iterator[NDArray[np.float64]]],
        bar: Bar,
    ) -> None:
        """Run the next ``number`` sequences."""
        length_S = self.length_S[self.done : self.done + number]
        ways = self._needed(half_width)
        batches = [self.done + batch for batch in like_lengths(length_S, self._batch_tokens(int(length_S.sum())))]
        # What is masked is drawn in the order of the batches, whichever is measured first.
        seeds = torch.randint(1 << 62, (len(batches),), generator=generator).tolist()
        for batch, known in zip(batches, do_all(partial(self._measure, ways), batches, seeds), strict=True):
            self.known[:, batch] = known
            bar.advance(int(self.length_S[batch].sum()))
        self.done += number

    def losses(self) -> list[SpliceLosses]:
        """Means over what was run."""
        drawn = self._drawn()
        if not drawn.predictions_S.sum():
            return []
        return [self._losses_of(number, drawn) for number in range(len(self.place_of))]

    def _losses_of(self, number: int, drawn: Drawn) -> SpliceLosses:
        zeros, own = self._zeros(number), self._own(number)
        run_S = ~np.isnan(own.loss_S)
        ce_clean = float(drawn.clean_S.sum() / drawn.predictions_S.sum())
        return SpliceLosses(
            predictions=int(drawn.predictions_S[run_S].sum()),
            ce_clean=ce_clean,
            ce_zero=ce_clean + extra_loss(drawn, zeros).value,
            kl_zero=mean_kl(drawn, zeros),
            ce_spliced=ce_clean + extra_loss(drawn, own).value,
            kl=mean_kl(drawn, own),
            filtered_tokens=int(self.known[2 + self.place_of[number], : self.done][run_S].sum()),
            tokens=int(self.length_S[: self.done][run_S].sum()),
            ce_recovered_half_width=recovered_half_width(drawn, zeros, own),
        )

    def _needed(self, half_width: float) -> list[int]:
        """The ways in which the next sequences have to be run."""
        first, every = len(self.limits), range(len(self.ways))
        if not self.done or not half_width:
            return list(every)
        drawn = self._drawn()
        zeros = [
            place
            for place in range(first)
            if not are_zeros_enough(drawn, self._zeros(who := self.place_of.index(place)), self._own(who), half_width)
        ]
        others = [
            first + number
            for number in range(1, len(self.place_of))
            if not is_control_enough(drawn, self._zeros(number), self._own(number), half_width)
        ]
        return [*zeros, first, *others]

    def _drawn(self) -> Drawn:
        predictions_S, clean_S = self.known[:2, : self.done]
        return Drawn(predictions_S, self.document_S[: self.done], clean_S)

    def _zeros(self, number: int) -> Run:
        return self._way(self.place_of[number])

    def _own(self, number: int) -> Run:
        return self._way(len(self.limits) + number)

    def _way(self, way: int) -> Run:
        first = 2 + len(self.limits) + 2 * way
        return Run(*self.known[first : first + 2, : self.done])

    def _batch_tokens(self, tokens: int) -> int:
        """Tokens of a batch: two batches at least where that is not too few, for they are run side by side."""
        most = BATCH_TOKENS
        if not has_own_head(self.subject):
            most = min(most, LOGIT_BYTES // (4 * self.subject.vocab_size))
        return max(min(most, max(tokens // 2, BATCH_TOKENS // 4)), 1)

    @torch.no_grad()
    def _measure(self, ways: Sequence[int], batch: Numbers, seed: int) -> NDArray[np.float64]:
        """What there is to know of some sequences, run as they are and in some ways: a column a sequence."""
        subject, corpus = self.subject, self.corpus
        token_ids = corpus.batch("heldout", self.order_S[batch]).token_ids
        ids_BT, mask_BT, text_BT = token_batch(subject, token_ids, corpus.num_prefix, corpus.num_suffix)
        inputs_BT, scored_BT = _questions(subject, ids_BT, text_BT, torch.Generator().manual_seed(seed))
        answer_N = ids_BT[scored_BT.to(ids_BT.device)]
        # A causal model answers one position earlier.
        answered_BT = scored_BT.roll(-1, dims=1) if subject.is_causal else scored_BT
        known = np.full((len(self.known), len(batch)), np.nan)
        known[0] = scored_BT.sum(dim=1).numpy()
        known[1 : 2 + len(self.limits)] = 0
        if not len(answer_N):
            for way in ways:
                known[2 + len(self.limits) + 2 * way :][:2] = 0
            return known
        prefix = run_to(subject, list(self.ends), inputs_BT, mask_BT)
        x_BTD, y_BTE = (prefix.values[end.point] for end in self.ends)
        kept = [_within(limit, text_BT, x_BTD) for limit in self.limits]
        for place, here_BT in enumerate(kept):
            known[2 + place] = (text_BT & ~here_BT).sum(dim=1).numpy()
        place_N = answered_BT.flatten().nonzero().squeeze(1)

        def answering(changed_BTE: Tensor | None) -> Tensor:
            stream_BTE = continue_to_head(subject, prefix, changed_BTE)
            return stream_BTE.flatten(0, 1)[place_N.to(stream_BTE.device)]

        clean_NE = answering(None)
        changed = (_with(y_BTE, kept[self.ways[way][0]], self.ways[way][1], x_BTD) for way in ways)
        compared = compare(subject, clean_NE, [answering(one) for one in changed], answer_N)
        self._check_finite(compared, ways)
        row_N = answered_BT.nonzero()[:, 0].numpy()
        sums = [np.bincount(row_N, weights=column_N, minlength=len(batch)) for column_N in compared.numpy()]
        known[1] = sums[0]
        for place, way in enumerate(ways):
            known[2 + len(self.limits) + 2 * way :][:2] = sums[1 + 2 * place : 3 + 2 * place]
        return known

    def _check_finite(self, compared: Tensor, ways: Sequence[int]) -> None:
        """Refuse losses that are none: NaN stands for what was not run.

        Raises:
            SubjectError: a loss or a divergence is not finite.
        """
        wrong = (~compared.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if not wrong:
            return
        how = "as it is"
        if wrong[0]:
            way = ways[(wrong[0] - 1) // 2]
            how = f"with {'zeros' if way < len(self.limits) else 'a reconstruction'} in place of its activations"
        message = (
            f"The loss of the model {how} is not finite: it computes numbers that {self.subject.dtype_name} does not "
            "hold, or its weights are damaged. Evaluate with a wider dtype, such as float32."
        )
        raise SubjectError(message)


def compare(subject: Subject, clean_NE: Tensor, changed_NE: Sequence[Tensor], answer_N: Tensor) -> Tensor:
    """Clean loss of each answer; then, for each change, its loss and the divergence from the clean distribution.

    Args:
        subject: the model.
        clean_NE: what its output head reads at the scored places.
        changed_NE: the same with each of the changes.
        answer_N: the tokens that are right.

    Returns:
        A row a figure [1 + 2 x changes, N], in nats, float64, on the CPU.
    """
    pieces = []
    at_once = max(COMPARED_LOGITS // subject.vocab_size, COMPARED_LEAST)
    for start in range(0, len(answer_N), at_once):
        part = slice(start, start + at_once)
        clean_CV = _log_probs(subject, clean_NE[part])
        answer_C1 = answer_N[part].to(clean_CV.device)[:, None]
        rows_C = [-clean_CV.gather(1, answer_C1)[:, 0]]
        probability_C1V = clean_CV.exp()[:, None]
        for stream_NE in changed_NE:
            changed_CV = _log_probs(subject, stream_NE[part])
            rows_C.append(-changed_CV.gather(1, answer_C1)[:, 0])
            torch.sub(clean_CV, changed_CV, out=changed_CV)
            rows_C.append(torch.bmm(probability_C1V, changed_CV[..., None])[:, 0, 0])
        pieces.append(torch.stack(rows_C).double().cpu())
    return torch.cat(pieces, dim=1)


def _log_probs(subject: Subject, stream_CE: Tensor) -> Tensor:
    return torch.log_softmax(head_logits(subject, stream_CE).float(), dim=-1)


def _distinct_limits(saes: Sequence[SparseAutoencoder]) -> list[NormLimit | None]:
    """The norm limits of the autoencoders, each once: what is zeroed depends on them alone."""
    limits: list[NormLimit | None] = []
    for sae in saes:
        if not any(sae.norm_limit is limit for limit in limits):
            limits.append(sae.norm_limit)
    return limits


def _place(limits: Sequence[NormLimit | None], sae: SparseAutoencoder) -> int:
    return next(place for place, limit in enumerate(limits) if limit is sae.norm_limit)


def _can_predict(subject: Subject) -> bool:
    has_head = subject.model.get_output_embeddings() is not None
    return has_head and (subject.is_causal or subject.tokenizer.mask_token_id is not None)


def _within(limit: NormLimit | None, text_BT: Tensor, x_BTD: Tensor) -> Tensor:
    """The places of the text whose activations are within a limit."""
    return text_BT if limit is None else text_BT & limit.keeps(x_BTD.flatten(0, 1)).view(text_BT.shape).cpu()


def _zeros_for(ends: Ends) -> Replace:
    return lambda x_ND: x_ND.new_zeros(len(x_ND), ends.write.width)


def _reconstruction_of(sae: SparseAutoencoder) -> Replace:
    return lambda x_ND: sae.reconstruct(x_ND.to(sae.W_dec)).to(x_ND)


def _questions(subject: Subject, ids_BT: Tensor, text_BT: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the model reads, and which tokens it is asked for."""
    if subject.is_causal:
        asked_BT = text_BT.clone()
        asked_BT[:, 0] = False  # nothing comes before the first token
        return ids_BT, asked_BT
    asked_BT = text_BT & (torch.rand(text_BT.shape, generator=generator) < _MASKED_SHARE)
    return ids_BT.masked_fill(asked_BT.to(ids_BT.device), subject.tokenizer.mask_token_id), asked_BT


def _with(y_BTE: Tensor, keep_BT: Tensor, replace: Replace, x_BTD: Tensor) -> Tensor:
    """What the autoencoder was trained on gives way to ``replace`` of ``x_BTD``; all other positions stay."""
    changed_BTE, here_BT = y_BTE.clone(), keep_BT.to(y_BTE.device)
    changed_BTE[here_BT] = replace(x_BTD[here_BT.to(x_BTD.device)]).to(changed_BTE)
    return changed_BTE
