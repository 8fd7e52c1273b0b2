"""Sequences side by side: padding, masks, and the rows of the text."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mistudio.subject import HookPoint, Subject, resolve_hooks, run_captured, text_rows, token_batch

TOKENS = [np.array(ids, np.int32) for ids in ([5, 6, 7, 8, 9], [10, 11, 12], [13, 14])]


def test_a_batch_is_padded_on_the_right_and_masked_only_where_that_matters(
    subject_of: Callable[[str], Subject],
) -> None:
    batch = token_batch(subject_of("bert"), TOKENS)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 8, 9], [10, 11, 12, 0, 0], [13, 14, 0, 0, 0]]
    assert batch.mask_BT is not None
    assert batch.mask_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert batch.text_BT.tolist() == batch.mask_BT.bool().tolist()
    assert token_batch(subject_of("gpt2"), TOKENS).mask_BT is None
    assert token_batch(subject_of("bert"), TOKENS[:1]).mask_BT is None


def test_special_tokens_are_no_text(subject_of: Callable[[str], Subject]) -> None:
    batch = token_batch(subject_of("gpt2"), TOKENS, num_prefix=1, num_suffix=1)
    assert batch.ids_BT[batch.text_BT].tolist() == [6, 7, 8, 11]


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox_parallel", "bert", "distilbert"])
def test_rows_are_those_of_each_sequence_alone(family: str, subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of(family)
    hooks = resolve_hooks(subject, [HookPoint("resid_post", 1), HookPoint("mlp_act", 0)])
    rows = text_rows(subject, hooks, token_batch(subject, TOKENS, num_prefix=1))
    assert rows.sequence_N.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert rows.place_N.tolist() == [1, 2, 3, 4, 1, 2, 1]
    alone = [run_captured(subject, hooks, torch.from_numpy(ids.astype(np.int64))[None]) for ids in TOKENS]
    for hook in hooks:
        expected = torch.cat([each[hook.point][0, 1:] for each in alone])
        torch.testing.assert_close(rows.acts[hook.point], expected, rtol=1e-4, atol=1e-5)
