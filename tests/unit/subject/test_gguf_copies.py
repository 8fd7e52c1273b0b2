"""The copies that a machine keeps of GGUF files: of the right bytes, whole, and gone when nobody needs them."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.errors import SubjectError
from mistudio.subject import SubjectConfig, forward_logits, load_subject, load_tokenizer, resolve_source
from mistudio.subject.gguf_plain import weights_folder
from mistudio.subject.kept_folders import make_room
from tests.support.gguf_files import model_of, write_gguf
from tests.support.processes import Team

CPU = SubjectConfig(device="cpu", dtype="float32")
IDS_BT = torch.arange(2, 24).reshape(2, 11)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of("llama")


@pytest.fixture
def path(tmp_path: Path, llama: Any) -> Path:
    return write_gguf(tmp_path / "a.gguf", llama)


def logits_of(path: Path) -> torch.Tensor:
    return forward_logits(load_subject(resolve_source(str(path)), CPU), IDS_BT)


def other_content(path: Path) -> bytes:
    """A file of the same size with other weights."""
    content = bytearray(path.read_bytes())
    content[-4000:] = bytes(4000)
    return bytes(content)


def put(path: Path, content: bytes) -> None:
    """Replace a file, and set its time of change to what it was."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def staged(scratch: Path) -> list[Path]:
    return [each for each in scratch.rglob(".*-*") if each.is_dir()]


class WhenDequantised(logging.Handler):
    """Does something at the moment at which a model begins to be dequantised."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Dequantise a"):
            self.act()


def test_a_file_that_was_replaced_after_it_was_found_is_refused(path: Path, scratch: Path) -> None:
    good, source = path.read_bytes(), resolve_source(str(path))
    put(path, other_content(path))
    for load in (lambda: load_subject(source, CPU), lambda: load_tokenizer(source)):
        with pytest.raises(SubjectError, match="another file than the one that was found: its sha256 was '"):
            load()
    assert not list(scratch.rglob("complete.json"))
    wrong = logits_of(path)
    put(path, good)
    assert not torch.equal(logits_of(path), wrong)
    assert torch.equal(forward_logits(load_subject(source, CPU), IDS_BT), logits_of(path))


@pytest.mark.parametrize("put_back", [False, True])
def test_a_file_that_is_replaced_while_it_is_read_is_refused(
    path: Path, llama: Any, put_back: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good, source = path.read_bytes(), resolve_source(str(path))

    def replace() -> None:
        put(path, other_content(path))
        if put_back:
            put(path, good)

    caplog.set_level(logging.INFO)
    handler = WhenDequantised(replace)
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(SubjectError, match="replaced while it was read" if put_back else "another file than"):
            load_subject(source, CPU)
    finally:
        logging.getLogger().removeHandler(handler)
    put(path, good)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(path), llama(input_ids=IDS_BT).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["*.safetensors", "tokenizer.json", "complete.json"])
def test_a_damaged_copy_of_the_same_size_is_told_and_made_again(
    path: Path, scratch: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected, ids = logits_of(path), load_tokenizer(resolve_source(str(path)))("a cat")["input_ids"]
    copies = {copy: copy.read_bytes() for copy in scratch.rglob(name)}
    assert copies
    for copy, content in copies.items():
        put(copy, content[:-9] + bytes(each ^ 1 for each in content[-9:]))
    assert torch.equal(logits_of(path), expected)
    assert load_tokenizer(resolve_source(str(path)))("a cat")["input_ids"] == ids
    assert {copy: copy.read_bytes() for copy in scratch.rglob(name)} == copies
    assert "is damaged" in caplog.text


def test_a_file_that_was_put_into_a_copy_is_removed(path: Path, scratch: Path) -> None:
    expected = logits_of(path)
    copy = next(scratch.rglob("*.safetensors"))
    other = copy.with_name("adapter_model.safetensors")
    other.write_bytes(copy.read_bytes())
    assert torch.equal(logits_of(path), expected)
    assert not other.exists()


def test_the_copies_used_longest_ago_make_room(tmp_path: Path, llama: Any, scratch: Path) -> None:
    for number in range(6):
        more = {"general.description": f"number {number}"}
        logits_of(write_gguf(tmp_path / f"{number}.gguf", llama, more=more))
    assert len(list(scratch.rglob("*.safetensors"))) == 4


def test_a_copy_in_use_makes_no_room(path: Path, scratch: Path) -> None:
    import transformers

    with weights_folder(resolve_source(str(path)), transformers.AutoModelForCausalLM, "float32") as folder:
        make_room(scratch / "gguf", "weights-*", 0)
        assert (Path(folder) / "complete.json").exists()
    make_room(scratch / "gguf", "weights-*", 0)
    assert not Path(folder).exists()


def test_a_copy_that_vanishes_meanwhile_does_no_harm(path: Path, scratch: Path) -> None:
    (scratch / "gguf" / "x").mkdir(parents=True)
    (scratch / "gguf" / "x" / "weights-float32").symlink_to(scratch / "nowhere")
    assert logits_of(path).isfinite().all()


def _load_there(path: str, scratch: str, killed: bool = False) -> Any:
    os.environ["MISTUDIO_SCRATCH"] = scratch
    if killed:
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger().addHandler(WhenDequantised(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    return logits_of(Path(path)).tolist()


@pytest.mark.proof
def test_two_processes_at_once_make_one_copy_and_what_killed_ones_left_is_removed(
    path: Path, tmp_path: Path, llama: Any, scratch: Path
) -> None:
    another = write_gguf(tmp_path / "another.gguf", llama, more={"general.description": "another"})
    expected = logits_of(another)
    with Team(2) as team:
        found = team.run(_load_there, str(path), str(scratch))
        assert [torch.allclose(torch.tensor(each), expected) for each in found] == [True, True]
        assert len(list(scratch.rglob("*.safetensors"))) == 2
        assert not staged(scratch)
        path = write_gguf(tmp_path / "a third.gguf", llama, more={"general.description": "a third"})
        assert team.run(_load_there, str(path), str(scratch), killed=True) == [None, None]
    assert len(staged(scratch)) == 1  # the second removed what the first one left
    logits_of(another)
    assert not staged(scratch)
