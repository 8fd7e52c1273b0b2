"""Loading models: what is found out about them, and what a broken one gets."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from pydantic import ValidationError

from mistudio.errors import SubjectError
from mistudio.subject import SubjectConfig, forward_logits, load_subject, load_tokenizer, pick_device, resolve_source
from mistudio.subject.classes import choose_auto_class
from tests.support.families import ENCODERS, byte_level_tokenizer

CPU = SubjectConfig(device="cpu")
STORIES = Path(__file__).parents[3] / ".." / "shared" / "data" / "models" / "stories260K"


def load(folder: Path, config: SubjectConfig = CPU):
    return load_subject(resolve_source(str(folder)), config)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_loaded_model_is_frozen_and_described(model_folder: Path) -> None:
    subject = load(model_folder)
    assert not subject.model.training
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())
    assert (subject.num_layers, subject.d_model, subject.max_positions) == (3, 32, 64)
    assert subject.vocab_size == len(subject.tokenizer)
    assert (subject.is_causal, str(subject.device), subject.dtype_name) == (True, "cpu", "float32")


def test_logits_are_those_of_transformers(model_folder: Path) -> None:
    subject = load(model_folder)
    ids_BT = torch.tensor([subject.tokenizer.encode("the cat sat")])
    with torch.no_grad():
        expected = tf.AutoModelForCausalLM.from_pretrained(model_folder)(ids_BT).logits
    torch.testing.assert_close(forward_logits(subject, ids_BT), expected)


def test_the_number_format_can_be_chosen(model_folder: Path) -> None:
    subject = load(model_folder, SubjectConfig(device="cpu", dtype="bfloat16"))
    assert subject.dtype_name == "bfloat16"
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_accelerate_places_the_layers_where_it_is_asked_to(model_folder: Path) -> None:
    subject = load(model_folder, SubjectConfig(device="cpu", device_map="auto"))
    assert forward_logits(subject, torch.tensor([[5, 6, 7]])).shape == (1, 3, subject.vocab_size)


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_loads_with_its_masked_token_head(family: str, tmp_path: Path) -> None:
    config = ENCODERS[family]()
    config.vocab_size = 300
    tf.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    subject = load(tmp_path)
    assert not subject.is_causal
    assert forward_logits(subject, torch.tensor([[5, 6, 7]])).shape == (1, 3, 300)


def test_an_encoder_without_a_head_loads_and_predicts_nothing(tmp_path: Path) -> None:
    config = ENCODERS["bert"]()
    config.vocab_size = 300
    tf.BertModel(config, add_pooling_layer=True).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    subject = load(tmp_path)
    assert not subject.is_causal
    with pytest.raises(SubjectError, match="BertModel has no output embeddings"):
        forward_logits(subject, torch.tensor([[5, 6, 7]]))


def test_a_multimodal_wrapper_gives_the_blocks_of_its_text_part() -> None:
    text = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tf.Gemma3Config(
        text_config={**text, **heads},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    model = choose_auto_class(config).from_config(config)
    from mistudio.subject import subject_from_model

    subject = subject_from_model(model, None)
    assert subject.is_causal
    assert subject.d_model == 32
    assert subject.blocks is model.get_decoder().layers


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(SubjectError, match="encoder-decoder"):
        choose_auto_class(tf.T5Config(architectures=["T5ForConditionalGeneration"]))


def test_a_truncated_weight_file_is_refused_with_the_reason(model_folder: Path) -> None:
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        SubjectError, match=r"Cannot load the model of tiny-llama from .*incomplete|Incomplete|Metadata"
    ):
        load(model_folder)


def _weights(header: Any, body: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _tensor(shape: list[Any], start: Any = 0, end: Any = 64, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE_WEIGHTS = {
    "nothing": b"",
    "half of a length": b"\x01\0\0",
    "a length of 2**63": _weights({}, length=2**63),
    "a length past the end": _weights({}, length=10**9),
    "no JSON": _weights(b"{x" + b"x" * 100),
    "brackets, 100,000 deep": _weights(b"[" * 100_000 + b"]" * 100_000),
    "objects, 100,000 deep": _weights(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a shape of 2**60 numbers": _weights({"a": _tensor([2**40, 2**20])}),
    "a negative place": _weights({"a": _tensor([16], -1)}),
    "a place past the end": _weights({"a": _tensor([10**9], 0, 4 * 10**9)}),
    "two tensors in one place": _weights({"a": _tensor([16]), "b": _tensor([16])}),
    "a hole": _weights({"a": _tensor([8], 32)}),
    "fewer bytes than the shape has": _weights({"a": _tensor([17])}),
    "an unknown number format": _weights({"a": _tensor([16], dtype="PICKLE")}),
    "bytes behind the last tensor": _weights({"a": _tensor([8], 0, 32)}),
}


@pytest.mark.parametrize("content", HOSTILE_WEIGHTS.values(), ids=HOSTILE_WEIGHTS.keys())
def test_hostile_headers_of_weights_are_refused_with_the_reason(model_folder: Path, content: bytes) -> None:
    (model_folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SubjectError, match=r"Cannot load the model of tiny-llama") as caught:
        load(model_folder)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "..", ""])
def test_an_index_that_names_weights_outside_of_the_folder_is_refused(model_folder: Path, name: str) -> None:
    weights = model_folder / "model.safetensors"
    (model_folder.parent / "outside.safetensors").write_bytes(weights.read_bytes())
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(SubjectError, match="names weights outside of the model's folder"):
        load(model_folder)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "experts_implementation"])
def test_a_kernel_of_the_hub_is_code_and_not_loaded_unless_trusted(model_folder: Path, key: str) -> None:
    edit_config(model_folder, **{key: "somebody/kernels@main:attention"})
    with pytest.raises(SubjectError, match="asks for the kernel 'somebody/kernels@main:attention' of the model hub"):
        load(model_folder)


def test_weights_that_lack_tensors_are_refused_rather_than_made_up(model_folder: Path) -> None:
    edit_config(model_folder, num_hidden_layers=4)
    with pytest.raises(
        SubjectError, match=r"weights of tiny-llama are incomplete: 9 tensors are missing \(model\.layers\.3"
    ):
        load(model_folder)


def test_weights_of_another_shape_are_refused(model_folder: Path) -> None:
    edit_config(model_folder, intermediate_size=56)
    with pytest.raises(SubjectError, match="Cannot load the model of tiny-llama"):
        load(model_folder)


def test_pickled_weights_are_refused_with_what_to_do(model_folder: Path) -> None:
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    with pytest.raises(SubjectError, match=r"only as pickle \(pytorch_model\.bin\).*Convert it to safetensors"):
        load(model_folder)


def test_a_folder_without_weights_is_refused(model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(SubjectError, match="has no weights"):
        load(model_folder)


def test_an_unknown_architecture_is_refused(model_folder: Path) -> None:
    edit_config(model_folder, model_type="no_such_model", architectures=["NoSuchModel"])
    with pytest.raises(SubjectError, match="no_such_model"):
        load(model_folder)


def test_a_configuration_that_is_no_json_is_refused(model_folder: Path) -> None:
    (model_folder / "config.json").write_text("{")
    with pytest.raises(SubjectError, match="Cannot load the configuration of tiny-llama"):
        load(model_folder)


def test_code_that_comes_with_a_model_is_not_run_unless_trusted(model_folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    (model_folder / "configuration_own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig\n"
        f"Path({str(proof)!r}).touch()\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    edit_config(model_folder, model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    with pytest.raises(SubjectError, match="Python code of its own.*trust_remote_code"):
        load(model_folder)
    assert not proof.exists()


def test_a_folder_without_a_tokenizer_is_refused(model_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model_folder / name).unlink()
    with pytest.raises(SubjectError, match="Cannot load the tokenizer of tiny-llama"):
        load_tokenizer(resolve_source(str(model_folder)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_with_what_is(device: str) -> None:
    with pytest.raises(SubjectError, match=f"no device '{device}'; this machine has cpu, and no GPU"):
        pick_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(ValidationError, match="use auto, cpu, cuda or cuda:N"):
        SubjectConfig(device=device)


def test_loading_prints_nothing(model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(model_folder)
    assert capfd.readouterr() == ("", "")


def test_a_real_model_predicts_a_story(tmp_path: Path) -> None:
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES.name} is not at hand")
    subject = load(Path(shutil.copytree(STORIES, tmp_path / "stories")))
    assert (subject.num_layers, subject.d_model, subject.vocab_size) == (5, 64, 512)
    ids_BT = torch.tensor([subject.tokenizer.encode("Once upon a time, there was a little girl")])
    losses = torch.nn.functional.cross_entropy(forward_logits(subject, ids_BT)[0, :-1], ids_BT[0, 1:])
    assert losses < 1.5
