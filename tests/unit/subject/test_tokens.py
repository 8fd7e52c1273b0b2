"""How single tokens are shown."""

from pathlib import Path

import pytest
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mistudio.subject import load_tokenizer, resolve_source, token_strings
from tests.support.families import byte_level_tokenizer

STORIES = Path(__file__).parents[3] / ".." / "shared" / "data" / "models" / "stories260K"


def test_byte_level_pieces_side_by_side_read_as_the_text() -> None:
    tokenizer = byte_level_tokenizer()
    strings = token_strings(tokenizer)
    text = "the cat sat on\n the hat"
    assert "".join(strings[token] for token in tokenizer.encode(text)) == text
    assert " the" in strings
    assert "\n" in strings


def test_bytes_that_are_no_text_on_their_own_are_shown_in_hex() -> None:
    tokenizer = byte_level_tokenizer()
    strings = token_strings(tokenizer)
    assert [strings[token] for token in tokenizer.encode("€")] == ["<0xE2>", "<0x82>", "<0xAC>"]


def test_special_tokens_are_shown_by_name_and_unused_ids_as_such() -> None:
    tokenizer = byte_level_tokenizer()
    assert token_strings(tokenizer)[tokenizer.bos_token_id] == "<|end|>"
    sparse = Tokenizer(models.WordLevel({"cat": 0, "dog": 3}, unk_token="cat"))
    assert token_strings(tf.PreTrainedTokenizerFast(tokenizer_object=sparse)) == [
        "cat",
        "<unused 1>",
        "<unused 2>",
        "dog",
    ]


def test_sentencepiece_pieces_have_real_spaces_and_bytes() -> None:
    pieces = {"<unk>": 0, "▁the": 1, "at": 2, "<0x0A>": 3, "<0xE2>": 4, "▁": 5}
    backend = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert token_strings(tokenizer) == ["<unk>", " the", "at", "\n", "<0xE2>", " "]


def test_wordpiece_pieces_show_where_a_word_starts() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert token_strings(tokenizer) == ["[UNK]", " play", "ing"]


def test_the_pieces_of_a_real_tokenizer_read_as_the_text() -> None:
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES.name} is not at hand")
    tokenizer = load_tokenizer(resolve_source(str(STORIES)))
    strings = token_strings(tokenizer)
    text = "Once upon a time,\nLily saw a café."
    assert len(strings) == 512
    assert "".join(strings[token] for token in tokenizer.encode(text, add_special_tokens=False)) == " " + text
