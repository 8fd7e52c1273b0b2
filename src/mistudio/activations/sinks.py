"""Whether sequences begin with an attention sink: read off what was captured, so that it does not depend on how.

A model needs a token that attention can rest on, and makes the first one a sink: many times as long as all others. A
special token before the text is the place for it, and is left out of a capture. Where there is none, the sink is the
first token of every text (Xiao et al. 2024, arXiv:2309.17453; Sun et al. 2024, arXiv:2402.17762).

Shape legend: N rows, D width.
"""

import numpy as np
import torch

from mistudio.activations.config import OUTLIER_RATIO
from mistudio.activations.shards import ShardFile
from mistudio.subject import Subject

_ROWS = 4096


def first_token_ratio(shard: ShardFile) -> float | None:
    """How many times as long as all others the first token of a sequence is, by medians; None where that is no sink."""
    num_rows = min(shard.num_rows, _ROWS)
    first_N = torch.from_numpy(np.diff(shard.meta("sequence", 0, num_rows), prepend=-1) != 0)
    if bool(first_N.all()):
        return None
    length_N = shard.acts(0, num_rows).float().norm(dim=1)
    ratio = float(length_N[first_N].median() / length_N[~first_N].median().clamp(min=1e-12))
    return round(ratio, 1) if ratio > OUTLIER_RATIO else None


def why_first(subject: Subject, num_left_out: int, num_prefix: int) -> str:
    """What stands, or does not stand, before the first token that is kept.

    Args:
        subject: the model.
        num_left_out: special tokens before it that were not kept.
        num_prefix: special tokens at the start of each sequence.
    """
    if num_left_out:
        return "The special token before it is left out already."
    if num_prefix:
        return "It is the tokenizer's own for the beginning: without include_special it would not be captured."
    if subject.tokenizer is None or subject.tokenizer.bos_token_id is None:
        return "The tokenizer has no token for the beginning (BOS) that could take that place."
    return "The corpus was ingested without the tokenizer's token for the beginning (add_special_tokens false)."
