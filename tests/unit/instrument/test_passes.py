"""Passes over sequences: each once, whatever its length, and activations in the order in which they were given."""

import numpy as np
import pytest
import torch

from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import SubjectError
from mistudio.instrument import CorpusSequences, ListedSequences, text_activations, token_batches
from mistudio.subject import HookPoint, resolve_hooks, run_captured
from tests.support.tiny_run import HOOK, TinyRun


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_activations_are_those_of_one_sequence_at_a_time_in_the_order_given(
    kind: str, batch_tokens: int, request: pytest.FixtureRequest
) -> None:
    run: TinyRun = request.getfixturevalue(kind)
    corpus = TokenCorpus(run.corpus)
    numbers = np.random.default_rng(0).permutation(corpus.num_sequences("heldout"))[:40]
    hooks = resolve_hooks(run.subject, [HookPoint.parse(HOOK), HookPoint("mlp_act", 1)])
    sequences = CorpusSequences(corpus, "heldout", numbers)
    assert len(set(sequences.lengths.tolist())) > 2
    acts = text_activations(run.subject, hooks, sequences, batch_tokens)
    for hook in hooks:
        alone = []
        for number in numbers.tolist():
            ids = torch.from_numpy(corpus.sequence("heldout", number).token_ids.astype(np.int64))[None]
            whole = run_captured(run.subject, [hook], ids)[hook.point][0]
            alone.append(whole[corpus.num_prefix : len(whole) - corpus.num_suffix])
        torch.testing.assert_close(acts[hook.point], torch.cat(alone), rtol=1e-3, atol=1e-5)


def test_sequences_in_memory_are_read_as_those_of_a_corpus(llama: TinyRun) -> None:
    corpus = TokenCorpus(llama.corpus)
    numbers = np.arange(9)
    stored = CorpusSequences(corpus, "train", numbers)
    listed = ListedSequences(corpus.batch("train", numbers).token_ids, corpus.num_prefix, corpus.num_suffix)
    for one, other in zip(
        token_batches(llama.subject, stored, 70), token_batches(llama.subject, listed, 70), strict=True
    ):
        assert one.number_B.tolist() == other.number_B.tolist()
        assert one.tokens.ids_BT.tolist() == other.tokens.ids_BT.tolist()
        assert one.tokens.text_BT.tolist() == other.tokens.text_BT.tolist()


def test_no_sequences_leave_no_rows(llama: TinyRun) -> None:
    hooks = resolve_hooks(llama.subject, [HookPoint("mlp_act", 1)])
    assert list(token_batches(llama.subject, ListedSequences([]))) == []
    assert text_activations(llama.subject, hooks, ListedSequences([]))[hooks[0].point].shape == (0, 48)


def test_a_sequence_longer_than_the_model_takes_is_refused(llama: TinyRun) -> None:
    with pytest.raises(SubjectError, match=r"has 129 tokens, and the model \(LlamaForCausalLM\) takes at most 128"):
        next(token_batches(llama.subject, ListedSequences([np.zeros(129, np.int32)])))
