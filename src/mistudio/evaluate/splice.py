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

The logits of the clean run are kept, and those of another compared with them a few predictions at a time.

Shape legend: B sequences, T tokens, D width of the hook point, V vocabulary, N scored predictions, C of them at once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mistudio.activations.plan import like_lengths
from mistudio.corpus.reader import TokenCorpus
from mistudio.instrument import Ends
from mistudio.parallel import two_at_once
from mistudio.progress import progress
from mistudio.sae import NormLimit, SparseAutoencoder
from mistudio.subject import ResolvedHook, Subject, forward_logits, observed, spliced, token_batch, unedited

LOGIT_BYTES = 64 << 20  # of one run in float32; two such tensors are alive in each thread
BATCH_TOKENS = 4096  # where the vocabulary is small, the model's own activations are what takes memory
COMPARED_LOGITS = 1 << 21
_MASKED_SHARE = 0.15

Replace = Callable[[Tensor], Tensor]


class SpliceLosses(NamedTuple):
    """Means over the scored predictions, in nats."""

    predictions: int
    ce_clean: float
    ce_zero: float
    kl_zero: float  # from the clean distribution of the prediction to the one with zeros
    ce_spliced: float
    kl: float  # from the clean distribution to the one with the reconstruction
    filtered_tokens: int = 0  # beyond the norm limit, which kept their activations

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
) -> list[SpliceLosses]:
    """Losses with each autoencoder on held-out sequences drawn at random up to about ``max_tokens`` tokens.

    Returns:
        One entry an autoencoder; none where nothing can be asked: no held-out tokens, a model without output
        embeddings, or an encoder without a mask token.
    """
    if not _can_predict(subject):
        return []
    ends = ends if isinstance(ends, Ends) else Ends(ends, ends)
    generator = torch.Generator().manual_seed(seed)
    batches = _draw(corpus, max_tokens, subject.vocab_size, generator)
    limits = _distinct_limits(saes)
    sums = torch.zeros(_num_sums(saes, limits), dtype=torch.float64)
    total = sum(int(corpus.lengths("heldout")[batch].sum()) for batch in batches)
    measure = partial(_measure_batch, subject, ends, saes, limits, corpus)
    # What is masked is drawn in the order of the batches, whichever is measured first.
    seeds = torch.randint(1 << 62, (len(batches),), generator=generator).tolist()
    at_once = two_at_once() if subject.device.type == "cpu" else nullcontext()
    with progress("Evaluate in the model", total, "tokens") as bar, at_once as pool:
        for batch, measured in zip(batches, (pool.map if pool else map)(measure, batches, seeds), strict=True):
            sums += measured
            bar.advance(int(corpus.lengths("heldout")[batch].sum()))
    count = int(sums[0])
    if not count:
        return []
    ce_clean, *means = (sums[1 : -len(limits)] / count).tolist()
    pairs = list(zip(means[::2], means[1::2], strict=True))
    zeros, own, filtered = pairs[: len(limits)], pairs[len(limits) :], sums[-len(limits) :].long().tolist()
    return [
        SpliceLosses(count, ce_clean, *zeros[place], *losses, filtered[place])
        for place, losses in zip([_place(limits, sae) for sae in saes], own, strict=True)
    ]


def _distinct_limits(saes: Sequence[SparseAutoencoder]) -> list[NormLimit | None]:
    """The norm limits of the autoencoders, each once: what is zeroed depends on them alone."""
    limits: list[NormLimit | None] = []
    for sae in saes:
        if not any(sae.norm_limit is limit for limit in limits):
            limits.append(sae.norm_limit)
    return limits


def _place(limits: Sequence[NormLimit | None], sae: SparseAutoencoder) -> int:
    return next(place for place, limit in enumerate(limits) if limit is sae.norm_limit)


def _num_sums(saes: Sequence[SparseAutoencoder], limits: Sequence[NormLimit | None]) -> int:
    """Predictions and clean loss; two figures with zeros and one count a limit; two figures an autoencoder."""
    return 2 + 3 * len(limits) + 2 * len(saes)


def _can_predict(subject: Subject) -> bool:
    has_head = subject.model.get_output_embeddings() is not None
    return has_head and (subject.is_causal or subject.tokenizer.mask_token_id is not None)


def _draw(corpus: TokenCorpus, max_tokens: int, vocab_size: int, generator: torch.Generator) -> list[np.ndarray]:
    """Batches of sequences of like length whose logits fit the memory set aside for them."""
    lengths_S = corpus.lengths("heldout")
    order = torch.randperm(len(lengths_S), generator=generator).numpy()
    chosen = order[: int(np.searchsorted(np.cumsum(lengths_S[order]), max_tokens)) + 1]
    batch_tokens = max(min(LOGIT_BYTES // (4 * vocab_size), BATCH_TOKENS), 1)
    return [chosen[batch] for batch in like_lengths(lengths_S[chosen], batch_tokens)]


@torch.no_grad()
def _measure_batch(
    subject: Subject,
    ends: Ends,
    saes: Sequence[SparseAutoencoder],
    limits: Sequence[NormLimit | None],
    corpus: TokenCorpus,
    batch: np.ndarray,
    seed: int,
) -> Tensor:
    """Sums: predictions, clean loss; loss and divergence with zeros, and with each autoencoder; tokens left out."""
    token_ids = corpus.batch("heldout", batch).token_ids
    ids_BT, mask_BT, text_BT = token_batch(subject, token_ids, corpus.num_prefix, corpus.num_suffix)
    inputs_BT, scored_BT = _questions(subject, ids_BT, text_BT, torch.Generator().manual_seed(seed))
    answer_N = ids_BT[scored_BT.to(ids_BT.device)]
    # A causal model answers one position earlier.
    answered_BT = scored_BT.roll(-1, dims=1) if subject.is_causal else scored_BT
    place_N = answered_BT.flatten().nonzero().squeeze(1)

    if not len(place_N):
        return torch.zeros(_num_sums(saes, limits), dtype=torch.float64)
    kept_BT = [text_BT] * len(limits)

    def look(x_BTD: Tensor) -> None:
        kept_BT[:] = [_within(limit, text_BT, x_BTD) for limit in limits]

    with unedited(), observed(subject, ends.read, look) if any(limits) else nullcontext():
        clean_BTV = forward_logits(subject, inputs_BT, mask_BT)
    clean_loss, _ = _loss_and_kl(clean_BTV, clean_BTV, place_N, answer_N)
    sums = [len(answer_N), clean_loss]
    replacements = [(here_BT, _zeros_for(ends)) for here_BT in kept_BT]
    replacements += [(kept_BT[_place(limits, sae)], _reconstruction_of(sae)) for sae in saes]
    for here_BT, replace in replacements:
        with _replacing(subject, ends, here_BT, replace):
            changed_BTV = forward_logits(subject, inputs_BT, mask_BT)
        sums += _loss_and_kl(changed_BTV, clean_BTV, place_N, answer_N)
    sums += [int(text_BT.sum() - here_BT.sum()) for here_BT in kept_BT]
    return torch.tensor(sums, dtype=torch.float64)


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


@contextmanager
def _replacing(subject: Subject, ends: Ends, keep_BT: Tensor, replace: Replace) -> Iterator[None]:
    """Put ``replace`` of what passes the one end in place of what passes the other, where ``keep_BT`` says so."""
    if ends.read.point == ends.write.point:
        with spliced(subject, ends.write, lambda x_BTD: _with(x_BTD, keep_BT, replace, x_BTD)):
            yield
        return
    passed: list[Tensor] = []

    def remember(x_BTD: Tensor) -> Tensor:
        passed[:] = [x_BTD]
        return x_BTD

    with (
        spliced(subject, ends.read, remember),
        spliced(subject, ends.write, lambda y_BTE: _with(y_BTE, keep_BT, replace, passed[0])),
    ):
        yield


def _with(y_BTE: Tensor, keep_BT: Tensor, replace: Replace, x_BTD: Tensor) -> Tensor:
    """What the autoencoder was trained on gives way to ``replace`` of ``x_BTD``; all other positions stay."""
    changed_BTE, here_BT = y_BTE.clone(), keep_BT.to(y_BTE.device)
    changed_BTE[here_BT] = replace(x_BTD[here_BT.to(x_BTD.device)]).to(changed_BTE)
    return changed_BTE


def _loss_and_kl(changed_BTV: Tensor, clean_BTV: Tensor, place_N: Tensor, answer_N: Tensor) -> list[float]:
    """Loss of the answers, and divergence from the clean distributions to the changed ones: sums over predictions."""
    device = changed_BTV.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    at_once = max(COMPARED_LOGITS // changed_BTV.shape[-1], 1)
    pieces = (torch.split(index_N.to(device), at_once) for index_N in (place_N, answer_N))
    for place_C, answer_C in zip(*pieces, strict=True):
        clean_CV, changed_CV = (
            torch.log_softmax(logits_BTV.flatten(0, 1)[place_C.to(logits_BTV.device)].float(), dim=-1)
            for logits_BTV in (clean_BTV, changed_BTV)
        )
        sums[0] -= changed_CV.gather(1, answer_C[:, None]).sum()
        sums[1] += functional.kl_div(changed_CV, clean_CV, log_target=True, reduction="sum")
    return sums.tolist()
