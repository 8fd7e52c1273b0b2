"""What the model loses when an autoencoder's reconstruction takes the place of its activations.

The same sequences run three times: as they are, with the reconstruction spliced in, and with zeros in its
place. Special tokens around the text, which the autoencoder never saw, keep their activations. Causal models
are scored on the next token; encoders on tokens that are masked for the purpose (15%, as in BERT's training).
The masked places are replaced too, although the autoencoder was trained on text without masks: the prediction
is read off there, so at a late layer nothing else would tell.

Shape legend: B sequences, T tokens, D width of the hook point, V vocabulary, N scored predictions.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mistudio.activations import batch_tensors
from mistudio.corpus.reader import TokenCorpus
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder
from mistudio.subject import ResolvedHook, Subject, forward_logits, spliced

_LOGIT_BYTES = 64 << 20  # of one run; about five tensors of this size are alive at once
_MASKED_SHARE = 0.15

Replace = Callable[[Tensor], Tensor]


class SpliceLosses(NamedTuple):
    """Means over the scored predictions, in nats."""

    predictions: int
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    kl: float  # from the clean to the spliced distribution of the prediction

    @property
    def ce_recovered(self) -> float | None:
        """Share of the loss that zeroing causes and the reconstruction avoids; None where zeroing costs nothing."""
        gap = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_spliced) / gap if gap > 0 else None


class _Scored(NamedTuple):
    log_probs_NV: Tensor
    losses_N: Tensor


@torch.no_grad()
def measure_splice(
    subject: Subject, hook: ResolvedHook, sae: SparseAutoencoder, corpus: TokenCorpus, max_tokens: int, seed: int
) -> SpliceLosses | None:
    """Losses on held-out sequences drawn at random up to about ``max_tokens`` tokens.

    Returns:
        The losses; None where nothing can be asked: no held-out tokens, a model without output embeddings, or
        an encoder without a mask token.
    """
    if not _can_predict(subject):
        return None
    generator = torch.Generator().manual_seed(seed)
    batches = _draw(corpus, max_tokens, subject.vocab_size, generator)
    sums = torch.zeros(5, dtype=torch.float64)
    total = sum(int(corpus.lengths("heldout")[batch].sum()) for batch in batches)
    with progress("Evaluate in the model", total, "tokens") as bar:
        for batch in batches:
            sums += _measure_batch(subject, hook, sae, corpus, batch, generator)
            bar.advance(int(corpus.lengths("heldout")[batch].sum()))
    count = int(sums[0])
    if not count:
        return None
    clean, rebuilt, zero, kl = (sums[1:] / count).tolist()
    return SpliceLosses(count, clean, rebuilt, zero, kl)


def _can_predict(subject: Subject) -> bool:
    has_head = subject.model.get_output_embeddings() is not None
    return has_head and (subject.is_causal or subject.tokenizer.mask_token_id is not None)


def _draw(corpus: TokenCorpus, max_tokens: int, vocab_size: int, generator: torch.Generator) -> list[np.ndarray]:
    """Batches of sequences of like length whose logits fit the memory set aside for them."""
    lengths_S = corpus.lengths("heldout")
    order = torch.randperm(len(lengths_S), generator=generator).numpy()
    chosen = order[: int(np.searchsorted(np.cumsum(lengths_S[order]), max_tokens)) + 1]
    chosen = chosen[np.argsort(-lengths_S[chosen], kind="stable")]
    batch_tokens = max(_LOGIT_BYTES // (4 * vocab_size), 1)
    batches, done = [], 0
    while done < len(chosen):
        size = max(batch_tokens // int(lengths_S[chosen[done]]), 1)
        batches.append(chosen[done : done + size])
        done += size
    return batches


def _measure_batch(
    subject: Subject,
    hook: ResolvedHook,
    sae: SparseAutoencoder,
    corpus: TokenCorpus,
    batch: np.ndarray,
    generator: torch.Generator,
) -> Tensor:
    """Number of predictions and sums of clean, spliced and zero loss and of the KL divergence [5]."""
    rows = corpus.batch("heldout", batch)
    ids_BT, mask_BT, real_BT = batch_tensors(rows.token_ids, subject.device, causal=subject.is_causal)
    lengths_B = real_BT.sum(dim=1, keepdim=True)
    place_T = torch.arange(ids_BT.shape[1])
    text_BT = (place_T >= corpus.num_prefix) & (place_T < lengths_B - corpus.num_suffix)
    inputs_BT, scored_BT = _questions(subject, ids_BT, text_BT, generator)
    if not bool(scored_BT.any()):
        return torch.zeros(5, dtype=torch.float64)
    answer_N = ids_BT[scored_BT.to(ids_BT.device)]

    def run(replace: Replace | None) -> _Scored:
        with spliced(subject, hook, _at(text_BT, replace)) if replace else nullcontext():
            logits_BTV = forward_logits(subject, inputs_BT, mask_BT)
        return _score(logits_BTV, scored_BT, answer_N, causal=subject.is_causal)

    zero_losses_N = run(torch.zeros_like).losses_N
    clean = run(None)
    rebuilt = run(lambda x_ND: sae.reconstruct(x_ND.to(sae.W_dec)).to(x_ND))
    kl = functional.kl_div(rebuilt.log_probs_NV, clean.log_probs_NV, log_target=True, reduction="sum")
    sums = [clean.losses_N.sum(), rebuilt.losses_N.sum(), zero_losses_N.sum(), kl]
    return torch.tensor([len(answer_N), *(float(value) for value in sums)], dtype=torch.float64)


def _questions(subject: Subject, ids_BT: Tensor, text_BT: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the model reads, and which tokens it is asked for."""
    if subject.is_causal:
        asked_BT = text_BT.clone()
        asked_BT[:, 0] = False  # nothing comes before the first token
        return ids_BT, asked_BT
    asked_BT = text_BT & (torch.rand(text_BT.shape, generator=generator) < _MASKED_SHARE)
    return ids_BT.masked_fill(asked_BT.to(ids_BT.device), subject.tokenizer.mask_token_id), asked_BT


def _at(keep_BT: Tensor, replace: Replace) -> Replace:
    """Apply ``replace`` to the positions that the autoencoder was trained on."""

    def at_positions(x_BTD: Tensor) -> Tensor:
        changed_BTD, here_BT = x_BTD.clone(), keep_BT.to(x_BTD.device)
        changed_BTD[here_BT] = replace(x_BTD[here_BT])
        return changed_BTD

    return at_positions


def _score(logits_BTV: Tensor, asked_BT: Tensor, answer_N: Tensor, *, causal: bool) -> _Scored:
    """Log-probabilities and losses of the asked tokens; a causal model answers one position earlier."""
    where_BT = asked_BT.roll(-1, dims=1) if causal else asked_BT
    log_probs_NV = torch.log_softmax(logits_BTV[where_BT.to(logits_BTV.device)].float(), dim=-1)
    answer_N = answer_N.to(log_probs_NV.device)
    return _Scored(log_probs_NV, -log_probs_NV.gather(1, answer_N[:, None]).squeeze(1))
