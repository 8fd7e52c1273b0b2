"""What a model is, found by what it does: causal or not, how many positions, which token ids."""

from pathlib import Path

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.subject import SubjectConfig, load_subject, resolve_source, subject_from_model, token_strings
from mistudio.subject.facts import model_facts, position_limit
from mistudio.subject.tokens import check_vocabulary
from mistudio.subject.validate import validate_model
from tests.support.cases import case
from tests.support.families import CAUSAL, FAMILIES, build_model, byte_level_tokenizer

CPU = SubjectConfig(device="cpu")
SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# Position tables that begin after the padding index, and some that do not.
POSITIONS = {
    "roberta": lambda: tf.RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "xlm_roberta": lambda: tf.XLMRobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "camembert": lambda: tf.CamembertConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "data2vec": lambda: tf.Data2VecTextConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "mpnet": lambda: tf.MPNetConfig(**SIZES, max_position_embeddings=40),
    "esm": lambda: tf.EsmConfig(**SIZES, max_position_embeddings=40, pad_token_id=0, mask_token_id=60),
    "bert": lambda: tf.BertConfig(**SIZES, max_position_embeddings=40, pad_token_id=0),
    "electra": lambda: tf.ElectraConfig(**SIZES, embedding_size=32, max_position_embeddings=40),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_causal_where_the_first_token_does_not_feel_later_ones(family: str) -> None:
    assert subject_from_model(build_model(family), None).is_causal is (family in CAUSAL)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_class_can_be_either(bidirectional: bool) -> None:
    torch.manual_seed(0)
    config = tf.Gemma3TextConfig(**SIZES, num_key_value_heads=2, head_dim=8, use_bidirectional_attention=bidirectional)
    model = tf.Gemma3TextModel(config)
    assert subject_from_model(model, None).is_causal is not bidirectional
    assert subject_from_model(model.bfloat16(), None).is_causal is not bidirectional


def test_the_case_of_a_bidirectional_embedding_model() -> None:
    assert not load_subject(resolve_source(str(case("model_embeddinggemma_like"))), CPU).is_causal


@pytest.mark.parametrize("family", POSITIONS)
def test_the_bound_on_positions_is_the_longest_sequence_that_runs(family: str) -> None:
    config = POSITIONS[family]()
    limit = position_limit(config)
    model = tf.AutoModelForMaskedLM.from_config(config).eval()
    assert limit == position_limit(config, model) == subject_from_model(model, None).max_positions

    def ids(num_tokens: int | None) -> Tensor:
        return torch.full((1, num_tokens or 0), 7)

    with torch.no_grad():
        model(input_ids=ids(limit))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids((limit or 0) + 1))


def test_no_bound_is_no_bound(tmp_path: Path) -> None:
    assert position_limit(tf.XLNetConfig()) is None
    source = resolve_source(str(case("model_xlnet")))
    assert model_facts(source, False, tmp_path).max_positions is None
    assert validate_model(source, CPU).max_positions is None


def test_ids_past_the_vocabulary_matter_where_text_gives_them() -> None:
    tokenizer = byte_level_tokenizer()
    vocabulary = len(tokenizer)
    check_vocabulary(tokenizer, vocabulary, "m")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_vocabulary(tokenizer, vocabulary, "m")
    tokenizer.add_tokens(["<plain>"])
    with pytest.raises(SubjectError, match=rf"ids up to {vocabulary + 1} \('<plain>'\).*embeddings for 0 to"):
        check_vocabulary(tokenizer, vocabulary, "m")


def test_the_cases_of_ids_past_the_vocabulary() -> None:
    assert validate_model(resolve_source(str(case("model_gemma3_like_vocab"))), CPU).is_causal
    with pytest.raises(SubjectError, match=r"ids up to 399 .*embeddings for 0 to 299"):
        validate_model(resolve_source(str(case("model_too_few_ids"))), CPU)


@pytest.mark.parametrize("head", ["rewards", "discriminator"])
def test_a_model_with_a_head_of_another_kind_is_studied_without_it(head: str, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 40}
    model: tf.PreTrainedModel = (
        tf.LlamaForSequenceClassification(tf.LlamaConfig(**sizes, num_labels=1, pad_token_id=0))
        if head == "rewards"
        else tf.ElectraForPreTraining(tf.ElectraConfig(**sizes, embedding_size=32))
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    subject = load_subject(resolve_source(str(tmp_path)), CPU)
    assert (subject.num_layers, subject.is_causal) == (2, head == "rewards")
    assert subject.model.get_output_embeddings() is None
    saved, loaded = model.state_dict(), subject.model.state_dict()
    prefix = model.base_model_prefix
    assert all(torch.equal(value, saved[f"{prefix}.{name}"]) for name, value in loaded.items())


def test_a_missing_head_that_is_named_is_still_damage(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    config = tf.LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer)}, architectures=["LlamaForCausalLM"])
    tf.LlamaModel(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"LlamaModel"', '"LlamaForCausalLM"'))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SubjectError, match=r"incomplete.*lm_head"):
        load_subject(resolve_source(str(tmp_path)), CPU)


def test_pieces_that_end_a_word_are_shown_with_the_space_after_it() -> None:
    model = models.BPE(vocab={"o": 0, "n</w>": 1, "on</w>": 2}, merges=[("o", "n</w>")], end_of_word_suffix="</w>")
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    assert token_strings(tokenizer) == ["o", "n ", "on "]
