"""What the model as it is makes of texts, whoever wrote them: how likely they are, and what is active on them.

Nothing here knows of edits: the hooks of an engine act in its own passes alone.

Shape legend: N texts, T tokens of a text, D width of the hook point, M tokens of some texts, E width of what
the output head reads, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.instrument import ListedSequences, PlacedAutoencoder, text_activations, token_batches
from mistudio.instrument.resume import continue_to_head, head_logits, run_to
from mistudio.steer.evaluate.windows import Ids
from mistudio.subject import Subject

_BATCH_TOKENS = 2048
_LOGITS_AT_ONCE = 1 << 23
_TEXTS_AT_ONCE = 256


class Reader:
    """Reads texts with a model and an autoencoder, both as they are.

    Args:
        subject: the model.
        placed: the autoencoder.
        prefix: special tokens that begin a sequence.
        suffix: special tokens that end one.
    """

    def __init__(self, subject: Subject, placed: PlacedAutoencoder, prefix: Ids, suffix: Ids) -> None:
        self.subject, self.placed, self.prefix, self.suffix = subject, placed, prefix, suffix
        self._special_ids = frozenset(subject.tokenizer.all_special_ids)

    @torch.no_grad()
    def losses(self, prompts: Sequence[Ids], texts: Sequence[Ids]) -> list[NDArray[np.float64]]:
        """The loss of each token of texts behind their prompts, in nats."""
        whole = [(*self.prefix, *prompt, *text) for prompt, text in zip(prompts, texts, strict=True)]
        sequences = ListedSequences([np.array(ids, dtype=np.int32) for ids in whole])
        losses: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
        for number_B, batch in token_batches(self.subject, sequences, _BATCH_TOKENS):
            stream_BTE = continue_to_head(
                self.subject, run_to(self.subject, [self.placed.ends.write], batch.ids_BT, batch.mask_BT)
            )
            for row, number in enumerate(number_B.tolist()):
                text = torch.tensor(texts[number], dtype=torch.int64, device=stream_BTE.device)
                stop = len(whole[number]) - 1
                losses[number] = self._losses(stream_BTE[row, stop - len(text) : stop], text)
        return losses

    @torch.no_grad()
    def activations(self, texts: Sequence[Ids], *, at_write: bool = False) -> Iterator[Tensor]:
        """What passes the autoencoder's input on each text alone, without special tokens, each [T, D].

        Args:
            texts: what is read.
            at_write: where the autoencoder writes instead.
        """
        own = [tuple(token for token in text if token not in self._special_ids) for text in texts]
        for start in range(0, len(own), _TEXTS_AT_ONCE):
            block = own[start : start + _TEXTS_AT_ONCE]
            sequences = [np.array((*self.prefix, *text, *self.suffix), dtype=np.int32) for text in block]
            listed = ListedSequences(sequences, len(self.prefix), len(self.suffix))
            hook = self.placed.ends.write if at_write else self.placed.ends.read
            acts_MD = text_activations(self.subject, [hook], listed)[hook.point]
            yield from torch.split(acts_MD, [len(text) for text in block])

    def strongest(self, texts: Sequence[Ids], latent: int) -> NDArray[np.float32]:
        """The largest activation of a latent on each text alone [N]; 0 on an empty one."""
        return self.strongest_of(self.activations(texts), latent)

    def strongest_of(self, acts: Iterable[Tensor], latent: int) -> NDArray[np.float32]:
        """The same, of texts whose activations are there, each [T, D]."""
        sae = self.placed.sae
        encode = sae.encoder_of(torch.tensor([latent], dtype=torch.int64, device=sae.W_dec.device))
        values = [float(encode(each.to(sae.W_enc.dtype)).max()) if len(each) else 0.0 for each in acts]
        return np.array(values, dtype=np.float32)

    def _losses(self, stream_TE: Tensor, text_T: Tensor) -> NDArray[np.float64]:
        at_once = max(_LOGITS_AT_ONCE // self.subject.vocab_size, 1)
        found = []
        for stream, text in zip(torch.split(stream_TE, at_once), torch.split(text_T, at_once), strict=True):
            logprob_TV = head_logits(self.subject, stream).float().log_softmax(dim=-1)
            found.append(-logprob_TV.gather(1, text[:, None])[:, 0].double().cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0)
