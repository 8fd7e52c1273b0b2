import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mistudio.corpus.tokens import Specials, TextEncoder, chunk, find_specials


def test_specials_are_those_of_the_tokenizers_own_template(
    causal_tokenizer: PreTrainedTokenizerBase, bert_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert find_specials(causal_tokenizer) == Specials((0,), ())
    assert find_specials(bert_tokenizer) == Specials((2,), (3,))


def test_a_bos_token_is_prepended_although_the_template_adds_none(plain_tokenizer: PreTrainedTokenizerBase) -> None:
    assert plain_tokenizer("a").input_ids == TextEncoder(plain_tokenizer).encode(["a"])[0].tolist()
    assert find_specials(plain_tokenizer) == Specials((0,), ())


def test_no_bos_token_means_no_specials(bare_tokenizer: PreTrainedTokenizerBase) -> None:
    assert find_specials(bare_tokenizer) == Specials()


def test_specials_of_a_tokenizer_in_python_are_found() -> None:
    assert find_specials(ByT5Tokenizer()) == Specials((), (1,))


def test_tokens_between_the_specials_are_the_tokenizers_own(
    causal_tokenizer: PreTrainedTokenizerBase, bert_tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = ["One day, a girl.", "  def f(x):\n\treturn x", "Ünïcödé 🦊"]
    for tokenizer in (causal_tokenizer, bert_tokenizer, ByT5Tokenizer()):
        specials = find_specials(tokenizer)
        for text, ids in zip(texts, TextEncoder(tokenizer).encode(texts), strict=True):
            assert ids.dtype == np.int32
            assert [*specials.prefix, *ids.tolist(), *specials.suffix] == tokenizer(text).input_ids


@pytest.mark.parametrize("name", ["causal_tokenizer", "plain_tokenizer", "bert_tokenizer"])
def test_text_that_spells_a_special_token_is_ordinary_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    for special in tokenizer.all_special_tokens:
        text = f"before {special} after"
        assert set(tokenizer(text).input_ids) & set(tokenizer.convert_tokens_to_ids([special]))
        ids = TextEncoder(tokenizer).encode([text])[0].tolist()
        assert tokenizer.convert_tokens_to_ids(special) not in ids or special == tokenizer.unk_token
        if name != "bert_tokenizer":  # WordPiece does not keep spaces
            assert tokenizer.decode(ids) == text


def test_text_that_spells_a_special_token_is_ordinary_text_in_python_tokenizers_too() -> None:
    tokenizer = ByT5Tokenizer()
    assert 1 in tokenizer("a</s>b", add_special_tokens=False).input_ids
    assert TextEncoder(tokenizer).encode(["a</s>b"])[0].tolist() == [byte + 3 for byte in b"a</s>b"]


def test_the_callers_tokenizer_keeps_its_settings(causal_tokenizer: PreTrainedTokenizerBase) -> None:
    backend = Tokenizer.from_str(causal_tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    state = tokenizer.backend_tokenizer.to_str()
    text = "a long text that no limit cuts"
    assert TextEncoder(tokenizer).encode([text])[0].tolist() == causal_tokenizer(text).input_ids[1:]
    assert tokenizer.backend_tokenizer.to_str() == state
    assert tokenizer.backend_tokenizer.encode_special_tokens is False


def test_a_template_that_hides_the_text_is_refused() -> None:
    from mistudio.errors import SubjectError

    no_vocabulary = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(SubjectError, match="add_special_tokens to false"):
        find_specials(no_vocabulary)


def test_stories260k_begins_every_text_with_its_bos(shared_data: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(f"{shared_data}/models/stories260K")
    assert find_specials(tokenizer) == Specials((1,), ())
    assert TextEncoder(tokenizer).encode(["hi <s> you"])[0].tolist().count(1) == 0


@given(ids=st.lists(st.integers(0, 2**31 - 1)), max_tokens=st.integers(1, 50))
def test_chunks_of_a_document_are_its_tokens_in_order(ids: list[int], max_tokens: int) -> None:
    chunks = chunk(np.asarray(ids, dtype=np.int32), max_tokens)
    assert [token for piece in chunks for token in piece.tolist()] == ids
    assert all(len(piece) == max_tokens for piece in chunks[:-1])
    assert all(1 <= len(piece) <= max_tokens for piece in chunks)
