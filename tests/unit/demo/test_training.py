import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mistudio.artifacts import Artifact, open_store
from mistudio.corpus import python_docs
from mistudio.demo import DemoConfig, resolve_model, train_demo
from mistudio.demo.model import Llama, llama_config, new_weights, transformers_weights
from mistudio.demo.text import BOS_ID, EOS_ID, collate, split
from mistudio.errors import ConfigError, CorpusError, NotFound, SubjectError
from tests.unit.demo.conftest import SMALL

FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
]


def folder_of(artifact: Artifact) -> Path:
    return artifact.file("config.json").parent


def test_the_artifact_is_a_folder_in_hugging_face_format_without_working_files(trained: Artifact) -> None:
    assert trained.manifest.short_kind == "subject"
    assert trained.paths() == FILES
    assert sorted(path.name for path in folder_of(trained).iterdir()) == sorted([*FILES, "manifest.json"])


def test_transformers_computes_the_same_logits_from_its_weights() -> None:
    weights = new_weights(SMALL, 0)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(weight.shape, generator=generator) * 0.3 for name, weight in weights.items()}
    theirs = LlamaForCausalLM(llama_config(SMALL))
    theirs.load_state_dict(transformers_weights(weights), strict=False)
    ids_BT = torch.randint(0, SMALL.vocab_size, (3, 40), generator=generator)
    with torch.no_grad():
        ours = Llama(weights, SMALL, torch.float32).logits(ids_BT)
        torch.testing.assert_close(ours.view(3, 40, -1), theirs(ids_BT).logits, atol=1e-3, rtol=1e-3)


def test_its_settings_name_the_special_tokens(trained: Artifact) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder_of(trained))
    tokenizer = AutoTokenizer.from_pretrained(folder_of(trained))
    assert (model.config.bos_token_id, model.config.eos_token_id) == (BOS_ID, EOS_ID)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS_ID, EOS_ID)
    assert tokenizer("x")["input_ids"][0] == BOS_ID


def test_bits_per_byte_is_what_transformers_finds_on_documents_not_trained_on(
    trained: Artifact, small_stdlib: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder_of(trained))
    tokenizer = AutoTokenizer.from_pretrained(folder_of(trained))
    texts = split(python_docs.documents(small_stdlib), SMALL, 0)
    assert not set(texts.held_out) & set(texts.train)
    nats = 0.0
    for text in texts.held_out:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), SMALL.context_length - 1):
            ids_T = torch.tensor([BOS_ID, *ids[start : start + SMALL.context_length - 1]])
            with torch.no_grad():
                logits_TV = model(ids_T[None]).logits[0]
            nats += F.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="sum").item()
    bits_per_byte = nats / math.log(2) / sum(len(text.encode()) for text in texts.held_out)
    assert trained.manifest.summary["bits_per_byte"] == pytest.approx(bits_per_byte, abs=2e-4)


def test_it_learns(trained: Artifact) -> None:
    training = json.loads(trained.file("training.json").read_text())
    losses = [point["loss"] for point in training["curve"]]
    assert losses[0] > math.log(SMALL.vocab_size) - 0.5
    assert losses[-1] < losses[0] - 0.7
    assert training["curve"][-1]["tokens"] == training["tokens"] >= SMALL.tokens
    assert training["bits_per_byte"] < 3.6


def test_the_first_weights_are_those_of_the_seed() -> None:
    first, again, other = new_weights(SMALL, 1), new_weights(SMALL, 1), new_weights(SMALL, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])


def test_float32_arithmetic_gives_nearly_the_same_loss() -> None:
    batch = collate([torch.arange(40, dtype=torch.int32).numpy()])
    weights = new_weights(SMALL, 0)
    exact = Llama(weights, SMALL, torch.float32).loss(batch).item()
    assert Llama(weights, SMALL, torch.bfloat16).loss(batch).item() == pytest.approx(exact, rel=1e-2)


def test_the_second_run_finds_it_and_another_seed_does_not(trained: Artifact, small_stdlib: Path) -> None:
    again = train_demo(trained.store, SMALL, stdlib=small_stdlib)
    other = train_demo(trained.store, SMALL, seed=1, stdlib=small_stdlib)
    assert again.found
    assert again.artifact.digest == trained.digest
    assert not other.found
    assert other.artifact.digest != trained.digest


def test_killed_in_training_it_ends_with_the_same_digest_with_any_number_of_threads(
    trained: Artifact, small_stdlib: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; import torch; from mistudio.artifacts import open_store;"
        "from mistudio.demo import DemoConfig, train_demo;"
        "torch.set_num_threads(int(sys.argv[4]));"
        "config = DemoConfig.model_validate_json(sys.argv[1]);"
        "train_demo(open_store(sys.argv[2]), config, stdlib=Path(sys.argv[3]))"
    )
    store = open_store(str(tmp_path / "store"))
    arguments = [SMALL.model_dump_json(), store.url, str(small_stdlib), str(3 - min(torch.get_num_threads(), 2))]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    work = Path(store.url, trained.uri, "work", "checkpoint.safetensors")
    while not work.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert work.is_file()
    resumed = train_demo(store, SMALL, stdlib=small_stdlib)
    assert not resumed.found
    assert resumed.artifact.digest == trained.digest


def test_a_split_that_leaves_nothing_to_evaluate_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f():\n" + "    return 'a few words, again and again'\n" * 20)
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(CorpusError, match="to evaluate on"):
        train_demo(store, SMALL, stdlib=tmp_path)


@pytest.mark.parametrize(
    ("values", "named"),
    [({"width": 100, "heads": 3}, "width 100"), ({"batch_tokens": 64}, "batch_tokens 64"), ({"tokens": 10}, "tokens")],
)
def test_settings_that_do_not_go_together_are_refused_by_name(values: dict[str, int], named: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=named):
        DemoConfig(**values)


def test_a_subject_in_the_store_is_resolved_by_its_prefix(trained: Artifact) -> None:
    source = resolve_model(trained.uri, None, trained.store)
    assert (source.uri, source.digest, Path(source.path)) == (trained.uri, trained.digest, folder_of(trained))


def test_a_folder_is_resolved_as_a_model(trained: Artifact) -> None:
    assert resolve_model(str(folder_of(trained)), None, trained.store).uri.startswith("folder:")


def test_a_subject_that_is_not_there_is_named(trained: Artifact) -> None:
    with pytest.raises(NotFound, match="subject/0123456789abcdef"):
        resolve_model("subject/0123456789abcdef", None, trained.store)
    with pytest.raises(SubjectError, match="no-such-folder"):
        resolve_model("./no-such-folder", None, trained.store)


def test_gradients_are_clipped(trained: Artifact, small_stdlib: Path) -> None:
    config = SMALL.model_copy(update={"gradient_clip": 1e-6})  # of the size of what Adam adds to every step's divisor
    curve = _curve(train_demo(trained.store, config, stdlib=small_stdlib).artifact)
    assert _curve(trained)[-1] < curve[-1] - 0.1


def _curve(artifact: Artifact) -> list[float]:
    return [point["loss"] for point in json.loads(artifact.file("training.json").read_bytes())["curve"]]
