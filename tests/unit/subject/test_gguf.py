"""A GGUF file as a subject: found, hashed, loaded, and what it says done as it says."""

import hashlib
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as tf
from gguf import GGMLQuantizationType as Kind

from mistudio.artifacts import Draft, Recipe, Summary, open_store, produce
from mistudio.errors import SubjectError
from mistudio.steps.memory import estimate_memory
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject import (
    Subject,
    SubjectConfig,
    artifact_source,
    forward_logits,
    load_subject,
    load_tokenizer,
    resolve_source,
)
from mistudio.subject.facts import load_config, model_facts
from mistudio.subject.gguf_header import read_header
from mistudio.subject.gguf_types import READABLE_TYPES
from mistudio.subject.gguf_weights import dequantised
from mistudio.subject.validate import validate_model
from tests.support.gguf_files import CHAT, LAYERS, WIDTH, byte_tokenizer, model_of, write_gguf

CPU = SubjectConfig(device="cpu", dtype="float32")
IDS_BT = torch.randint(2, 380, (2, 11), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of("llama")


def loaded(path: Path, config: SubjectConfig = CPU) -> Subject:
    return load_subject(resolve_source(str(path)), config)


def test_the_digest_is_the_contents_under_any_name(tmp_path: Path, llama: Any) -> None:
    path = write_gguf(tmp_path / "a.gguf", llama)
    source, copy = resolve_source(str(path)), resolve_source(str(shutil.copy(path, tmp_path / "sha256-abc")))
    assert source.digest == copy.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source.name, source.uri, source.is_gguf) == ("a", "file:a.gguf", True)


def test_quantisations_share_a_tokenizer_and_nothing_else(tmp_path: Path, llama: Any) -> None:
    one, two = (
        resolve_source(str(write_gguf(tmp_path / kind.name, llama, kind=kind))) for kind in (Kind.F16, Kind.Q8_0)
    )
    assert one.tokenizer_digest == two.tokenizer_digest
    assert one.digest != two.digest
    other = resolve_source(str(write_gguf(tmp_path / "other", llama, pre="qwen2")))
    assert other.tokenizer_digest != one.tokenizer_digest


def test_a_folder_with_one_file_is_that_file_and_one_with_several_names_them(tmp_path: Path, llama: Any) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = write_gguf(folder / "a.gguf", llama)
    assert resolve_source(str(folder)) == resolve_source(str(path))
    shutil.copy(path, folder / "b.gguf")
    with pytest.raises(SubjectError, match=r"2 GGUF files \(a.gguf, b.gguf\): name the one"):
        resolve_source(str(folder))


def test_an_artifact_may_hold_a_single_file(tmp_path: Path, llama: Any) -> None:
    path = write_gguf(tmp_path / "a.gguf", llama)

    def build(draft: Draft) -> Summary:
        draft.write("a.gguf", path.read_bytes())
        return {}

    store = open_store(str(tmp_path / "store"))
    artifact = produce(store, Recipe(kind="subject", config={"name": "tiny"}), "test", build).artifact
    source = artifact_source(artifact)
    assert (source.digest, source.uri, source.is_gguf) == (artifact.digest, artifact.uri, True)
    assert source.tokenizer_digest == resolve_source(str(path)).tokenizer_digest
    assert load_subject(source, CPU).num_layers == LAYERS


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3"])
def test_a_model_computes_what_it_did_before_it_was_written(tmp_path: Path, architecture: str) -> None:
    model = model_of(architecture)
    subject = loaded(write_gguf(tmp_path / "a.gguf", model, architecture))
    with torch.no_grad():
        expected = model(input_ids=IDS_BT).logits
    torch.testing.assert_close(forward_logits(subject, IDS_BT), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_quantised_weights_are_those_of_the_file(tmp_path: Path, llama: Any, kind: Kind) -> None:
    path = write_gguf(tmp_path / "a.gguf", llama, kind=kind)
    weight = loaded(path).model.model.layers[1].mlp.up_proj.weight
    stored = gguf.quantize(llama.model.layers[1].mlp.up_proj.weight.detach().numpy(), kind)
    assert np.array_equal(weight.numpy(), gguf.dequantize(stored, kind))


def test_a_k_quantisation_is_read(tmp_path: Path, llama: Any) -> None:
    """The package writes none, so blocks of random bytes stand for one, with a scale that is a number."""
    block = np.random.default_rng(0).integers(0, 256, (WIDTH * 96 // 256, 144), dtype=np.uint8)
    block[:, :4] = np.frombuffer(np.float16([0.01, 0.02]).tobytes(), dtype=np.uint8)
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x", block.reshape(24, -1), raw_dtype=Kind.Q4_K)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    header = read_header(path)
    values = dequantised(np.memmap(path, mode="r", dtype=np.uint8), header, header.tensors[0])
    assert np.array_equal(values, gguf.dequantize(block.reshape(24, -1), Kind.Q4_K))


def test_the_types_said_to_be_read_can_be_dequantised() -> None:
    for name in READABLE_TYPES:
        kind = Kind[name]
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)


def test_what_is_loaded_can_be_saved_and_is_kept(tmp_path: Path, llama: Any, scratch: Path) -> None:
    source = resolve_source(str(write_gguf(tmp_path / "a.gguf", llama, kind=Kind.Q8_0)))
    subject = load_subject(source, CPU)
    subject.model.save_pretrained(tmp_path / "saved")
    subject.tokenizer.save_pretrained(tmp_path / "saved")
    again = loaded(tmp_path / "saved")
    assert torch.equal(forward_logits(again, IDS_BT), forward_logits(subject, IDS_BT))
    weights = list(scratch.rglob("*.safetensors"))
    before = weights[0].stat().st_mtime_ns
    load_subject(source, CPU)
    assert [path.stat().st_mtime_ns for path in weights] == [before]


def test_the_model_is_quantised_anew_like_any_other(tmp_path: Path, llama: Any) -> None:
    pytest.importorskip("bitsandbytes")
    path = write_gguf(tmp_path / "a.gguf", llama, kind=Kind.Q8_0)
    subject = loaded(path, SubjectConfig(device="cpu", dtype="float32", quantization="nf4"))
    assert "4bit" in type(subject.blocks[0].mlp.up_proj).__name__
    assert torch.isfinite(forward_logits(subject, IDS_BT)).all()


def test_facts_and_configuration_read_no_weights(tmp_path: Path, llama: Any, scratch: Path) -> None:
    source = resolve_source(str(write_gguf(tmp_path / "a.gguf", llama)))
    facts = model_facts(source, False, tmp_path / "facts")
    assert (facts.num_layers, facts.max_positions, facts.vocab_size) == (LAYERS, 128, 384)
    assert load_config(source).to_dict()["rope_parameters"]["rope_theta"] == llama.config.rope_parameters["rope_theta"]
    assert not list(scratch.rglob("*.safetensors"))


def test_the_memory_that_dequantising_holds_is_said(tmp_path: Path, llama: Any) -> None:
    path = write_gguf(tmp_path / "a.gguf", llama)
    work = MemoryConfig(layer=1, context_length=64, batch_size=8, width=256)
    parts = estimate_memory(resolve_source(str(path)), CPU, work).parts
    written, largest = 4 * sum(each.numel() for each in llama.parameters()), 384 * WIDTH
    assert parts["load"]["dequantized"] == written + largest * 12
    llama.save_pretrained(tmp_path / "folder")
    of_folder = estimate_memory(resolve_source(str(tmp_path / "folder")), CPU, work).parts
    assert {step: own for step, own in parts.items() if step != "load"} == of_folder


def test_validation_says_what_is_in_the_file(tmp_path: Path, llama: Any) -> None:
    report = validate_model(resolve_source(str(write_gguf(tmp_path / "a.gguf", llama, kind=Kind.Q4_1))), CPU)
    assert (report.dtype_on_disk, report.dtype, report.architecture) == ("Q4_1", "float32", "LlamaForCausalLM")


TEXTS = [
    "In 2025, 1234 cats weren't 99% sure; they'll say 1,000.5!",
    "def f(x):\n    return x ** 2  # squared\n\n\n\tend  ",
    "猫 naïve café 12三 ½ \u00a0x\r\n",
]


def test_text_is_split_as_the_file_says(tmp_path: Path, llama: Any) -> None:
    tokenizer = load_tokenizer(resolve_source(str(write_gguf(tmp_path / "a.gguf", llama))))
    expected = byte_tokenizer()
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == expected.encode(text).ids
        assert tokenizer.decode(ids) == text


def test_numbers_stay_together_where_the_file_does_not_part_them(tmp_path: Path, llama: Any) -> None:
    apart, together = (
        load_tokenizer(resolve_source(str(write_gguf(tmp_path / pre, llama, pre=pre)))) for pre in ("smollm", "gpt-2")
    )
    pieces = [
        [piece for piece, _ in each.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 123")]
        for each in (apart, together)
    ]
    assert pieces == [["a", "Ġ", "1", "2", "3"], ["a", "Ġ123"]]


def test_begin_token_and_chat_template_are_the_files(tmp_path: Path, llama: Any) -> None:
    plain = load_tokenizer(resolve_source(str(write_gguf(tmp_path / "a", llama))))
    begun = load_tokenizer(
        resolve_source(str(write_gguf(tmp_path / "b", llama, more={"tokenizer.ggml.add_bos_token": True})))
    )
    by_name = load_tokenizer(resolve_source(str(write_gguf(tmp_path / "c", llama, pre="llama-bpe"))))
    assert begun("a")["input_ids"] == by_name("a")["input_ids"] == [0, *plain("a")["input_ids"]]
    assert plain.chat_template == CHAT
    assert plain.apply_chat_template([{"role": "user", "content": "hat"}], tokenize=False) == "<|user|>hat"
    assert (plain.bos_token, plain.eos_token) == ("<s>", "</s>")
    assert plain("</s>")["input_ids"] == [1]


@pytest.mark.parametrize(("pre", "what"), [("a-new-one", "named 'a-new-one'"), (None, "does not say how")])
def test_a_split_that_is_not_known_is_told(
    tmp_path: Path, llama: Any, pre: str | None, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = resolve_source(str(write_gguf(tmp_path / "a.gguf", llama, pre=pre)))
    for _ in range(2):
        caplog.clear()
        load_tokenizer(source)
        assert what in caplog.text
        assert "tokens may differ" in caplog.text


def test_a_key_that_nothing_reads_is_told(tmp_path: Path, llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded(write_gguf(tmp_path / "a.gguf", llama, more={"llama.logit_scale": 0.5}))
    assert "llama.logit_scale = 0.5" in caplog.text


def test_the_rotations_of_llama_3_are_read(tmp_path: Path, llama: Any) -> None:
    rotations = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500_000.0,
    }
    config = tf.LlamaConfig(**{**llama.config.to_dict(), "rope_parameters": rotations})
    model = tf.LlamaForCausalLM(config).eval()
    plain = 1 / 500_000.0 ** (torch.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    path = write_gguf(tmp_path / "a.gguf", model, tensors={"rope_freqs.weight": factors})
    subject = loaded(path)
    torch.testing.assert_close(subject.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    other = write_gguf(tmp_path / "b.gguf", model, tensors={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(SubjectError, match="factors of its own"):
        loaded(other)


def with_key(content: bytes, key: str, value: bytes) -> bytes:
    """A file with one key more, before the others."""
    num_keys = struct.unpack_from("<Q", content, 16)[0] + 1
    return content[:16] + struct.pack("<QQ", num_keys, len(key)) + key.encode() + value + content[24:]


def test_a_file_that_is_none_or_is_damaged_is_refused(tmp_path: Path, llama: Any) -> None:
    content = write_gguf(tmp_path / "a.gguf", llama).read_bytes()
    cases = {
        b"hello": "not in GGUF format",
        content[:6]: "damaged",
        content[:3000]: "damaged",
        content[:-4000]: "cut off",
        content[:4] + struct.pack("<I", 1) + content[8:]: "of version 1",
        content[:4] + struct.pack(">I", 3) + content[8:]: "other byte order",
        content[:16] + struct.pack("<Q", 1 << 60) + content[24:]: "damaged",
        content[:24] + struct.pack("<Q", 1 << 62) + content[32:]: "damaged",
        with_key(content, "x", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000): "arrays more than 4 deep",
    }
    for number, (data, message) in enumerate(cases.items()):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(data)
        with pytest.raises(SubjectError, match=message):
            load_config(resolve_source(str(path)))


def test_what_cannot_be_read_is_named_with_what_can(tmp_path: Path, llama: Any) -> None:
    split = write_gguf(tmp_path / "m-00001-of-00003.gguf", llama, more={"split.count": 3})
    with pytest.raises(SubjectError, match="one of 3 parts.*llama-gguf-split --merge"):
        resolve_source(str(split))
    text = write_gguf(tmp_path / "text.gguf", llama, more={"split.count": "three"})
    with pytest.raises(SubjectError, match="split.count is 'three', and a whole number is expected"):
        resolve_source(str(text))
    other = write_gguf(tmp_path / "other.gguf", llama)
    data = other.read_bytes().replace(b"llama", b"rwkv9")
    other.write_bytes(data)
    with pytest.raises(SubjectError, match="architecture 'rwkv9'.*Read are .*llama.*qwen2"):
        load_config(resolve_source(str(other)))
    number = write_gguf(tmp_path / "type.gguf", llama)
    name = b"blk.0.ffn_norm.weight"
    data = bytearray(number.read_bytes())
    at = data.index(name) + len(name) + 4 + 8  # past how many axes it has, and the length of the one
    data[at : at + 4] = struct.pack("<I", 77)
    number.write_bytes(data)
    with pytest.raises(SubjectError, match="blk.0.ffn_norm.weight is of ggml's type 77.*Read are F32"):
        load_config(resolve_source(str(number)))


def test_weights_that_are_missing_or_left_over_are_named(tmp_path: Path, llama: Any) -> None:
    lacking = write_gguf(tmp_path / "a.gguf", llama, without=("blk.1.ffn_up.weight",))
    with pytest.raises(SubjectError, match="the file lacks model.layers.1.mlp.up_proj.weight"):
        loaded(lacking)
    extra = {"blk.0.attn_q_norm.weight": np.ones(16, dtype=np.float32)}
    with pytest.raises(SubjectError, match="no place for blk.0.attn_q_norm.weight"):
        loaded(write_gguf(tmp_path / "b.gguf", llama, tensors=extra))
    with pytest.raises(SubjectError, match="differ in shape"):
        loaded(write_gguf(tmp_path / "c.gguf", llama, more={"llama.feed_forward_length": 64}))
    with pytest.raises(SubjectError, match="says attention.value_length 9"):
        loaded(write_gguf(tmp_path / "d.gguf", llama, more={"llama.attention.value_length": 9}))


@pytest.mark.skipif("MISTUDIO_SMOLLM2" not in os.environ, reason="MISTUDIO_SMOLLM2 names no GGUF file of SmolLM2-135M")
def test_smollm2_is_read_as_it_was_trained() -> None:
    source = resolve_source(os.environ["MISTUDIO_SMOLLM2"])
    subject = load_subject(source, CPU)
    assert (subject.num_layers, subject.d_model, subject.vocab_size, subject.max_positions) == (30, 576, 49152, 8192)
    tokenizer = subject.tokenizer
    assert [tokenizer.decode([each]) for each in tokenizer("In 2025, it's 42.")["input_ids"]] == [
        *["In", " ", "2", "0", "2", "5", ",", " it", "'s", " ", "4", "2", "."]
    ]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert asked.endswith("<|im_start|>user\nHi<|im_end|>\n")
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    assert tokenizer.decode(forward_logits(subject, ids)[0, -1].argmax()) == " Paris"
