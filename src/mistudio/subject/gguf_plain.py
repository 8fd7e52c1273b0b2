"""A GGUF file as a plain folder: configuration, tokenizer and dequantised weights, made once on a machine and kept.

Every step of a pipeline loads the model anew, and to dequantise it each time would take longer than many a step. What
was made lies in the machine's scratch folder, by the content of the file and what reads it, and is checked when it is
read; the weights that were used longest ago make room for others. So a model in GGUF format is loaded, quantised
otherwise, placed and saved like any other.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.artifacts import canonical_json
from mistudio.artifacts.hashing import file_state
from mistudio.artifacts.scratch import machine_folder
from mistudio.errors import SubjectError
from mistudio.plain_text import shortened
from mistudio.progress import say
from mistudio.subject.gguf_config import config_doubts, config_of, is_read_lazily
from mistudio.subject.gguf_header import read_header
from mistudio.subject.gguf_tokens import tokenizer_doubts, tokenizer_of
from mistudio.subject.gguf_weights import write_weights
from mistudio.subject.kept_folders import kept_folder, make_room
from mistudio.subject.loading import loading_problem, quiet_transformers
from mistudio.subject.source import SubjectSource, hash_files

if TYPE_CHECKING:
    import torch

_FORMAT = 2  # of the copies; to be raised when they are made otherwise
_MOST_COPIES = 4  # dequantised models that are kept
_WEIGHTS = "weights"
_SHOWN_DIGITS = 12
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def config_folder(source: SubjectSource) -> AbstractContextManager[str]:
    """A folder with the configuration of a GGUF file, without weights; to be read within the context.

    Raises:
        SubjectError: the file is of an architecture that transformers does not read, or is damaged.
    """
    return _kept(source, "config", lambda folder: _config(source).save_pretrained(folder))


@contextmanager
def tokenizer_folder(source: SubjectSource) -> Iterator[str]:
    """A folder with the tokenizer of a GGUF file, to be read within the context.

    What there is to doubt about it is told.

    Raises:
        SubjectError: it is of a kind that transformers does not read, or is damaged.
    """

    def build(folder: Path) -> None:
        try:
            tokenizer = tokenizer_of(Path(source.path), read_header(Path(source.path)))
        except SubjectError:
            raise
        except Exception as error:  # a broken file surfaces as any of a dozen exception types
            raise SubjectError(loading_problem("tokenizer", source, error)) from error
        tokenizer.save_pretrained(folder)

    with _kept(source, "tokenizer", build) as folder:
        doubts = tokenizer_doubts(read_header(Path(source.path)))
        if doubts:
            say(f"{source.name}: {doubts}", logging.WARNING)
        yield folder


@contextmanager
def weights_folder(source: SubjectSource, auto_class: Any, dtype_name: str) -> Iterator[str]:
    """A folder with the configuration of a GGUF file and its weights, dequantised, in a number format.

    It is to be read within the context: later it may make room for others. What there is to doubt about the
    configuration is told.

    Args:
        source: of a GGUF file.
        auto_class: the class of transformers that loads the model.
        dtype_name: number format of the weights.

    Raises:
        SubjectError: the weights cannot be read, tensors are missing or left over, or the folder cannot be written.
    """

    def build(folder: Path) -> None:
        say(_announcement(source, dtype_name))
        try:
            with quiet_transformers():
                _write(source, auto_class, dtype_name, folder)
        except (SubjectError, OSError):
            raise
        except Exception as error:  # a tensor that cannot be read surfaces as any of a dozen exception types
            raise SubjectError(loading_problem("model", source, error)) from error

    doubts = config_doubts(read_header(Path(source.path)))
    if doubts:
        say(f"{source.name}: {doubts}", logging.WARNING)
    with _kept(source, f"{_WEIGHTS}-{dtype_name}", build) as folder:
        make_room(_root(), f"{_WEIGHTS}-*", _MOST_COPIES)
        yield folder


def _config(source: SubjectSource) -> Any:
    path = Path(source.path)
    try:
        with quiet_transformers():
            return config_of(path, read_header(path))
    except SubjectError:
        raise
    except Exception as error:  # a broken file surfaces as any of a dozen exception types
        raise SubjectError(loading_problem("configuration", source, error)) from error


def _write(source: SubjectSource, auto_class: Any, dtype_name: str, folder: Path) -> None:
    import accelerate
    import torch

    path, config, dtype = Path(source.path), _config(source), getattr(torch, dtype_name)
    header = read_header(path)
    if is_read_lazily(header):
        model = _loaded(path, auto_class, config, dtype)
        model.save_pretrained(folder)
        return
    with accelerate.init_empty_weights():
        model = auto_class.from_config(config)
    write_weights(path, header, model, dtype, folder)
    config.architectures, config.dtype = [type(model).__name__], dtype
    config.save_pretrained(folder)


def _loaded(path: Path, auto_class: Any, config: Any, dtype: "torch.dtype") -> Any:
    """The model as transformers loads it, without what tells that it was quantised.

    Raises:
        SubjectError: weights would be made up.
    """
    from transformers import GgufConfig

    with tempfile.TemporaryDirectory() as folder:
        # transformers wants the suffix, which the files of Ollama do not have.
        (Path(folder) / "model.gguf").symlink_to(path)
        model, info = auto_class.from_pretrained(
            folder,
            gguf_file="model.gguf",
            config=config,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    if info["missing_keys"]:
        message = f"{path.name} lacks weights of the model: {', '.join(sorted(info['missing_keys'])[:5])}."
        raise SubjectError(message)
    model.hf_quantizer = None
    del model.config.quantization_config
    return model


def _announcement(source: SubjectSource, dtype_name: str) -> str:
    weights = sum(tensor.num_weights for tensor in read_header(Path(source.path)).tensors)
    size = f"{weights / 1e6:,.0f} million weights, {weights * _BYTES[dtype_name] / 1e9:.1f} GB as {dtype_name}"
    return f"Dequantise {source.name}: {size}, kept in {_root()}; later loads are quick."


def _root() -> Path:
    return machine_folder() / "gguf"


@contextmanager
def _kept(source: SubjectSource, part: str, build: Callable[[Path], None]) -> Iterator[str]:
    """The folder of a part of a model, built where it is not there yet; it stays for as long as the context lasts.

    Raises:
        SubjectError: it cannot be built or written, or the file is not the one any more that was found.
    """
    readers = {name: version(name) for name in ("gguf", "transformers", "tokenizers")}
    named = {"model": source.file_sha256, "format": _FORMAT, **readers}
    folder = _root() / hashlib.sha256(canonical_json(named)).hexdigest()[:32] / part
    with ExitStack() as held:
        try:
            held.enter_context(kept_folder(folder, lambda staged: _build_of_same(source, build, staged)))
        except OSError as error:
            message = (
                f"Cannot keep what {source.path} holds in {folder.parent}: {error.strerror or error}. Make room there, "
                "or name another folder in MISTUDIO_SCRATCH."
            )
            raise SubjectError(message) from error
        yield str(folder)


def _build_of_same(source: SubjectSource, build: Callable[[Path], None], folder: Path) -> None:
    """Build from the bytes that the source names, and from no others: what is built is kept under their name.

    Raises:
        SubjectError: the file was written or replaced after it was found, or meanwhile.
    """
    before = _checked_state(source)
    try:
        build(folder)
    except Exception:  # half of one file and half of another fails in any way
        _check_unchanged(source, before)
        raise
    _check_unchanged(source, before)


def _check_unchanged(source: SubjectSource, before: tuple[int, ...]) -> None:
    if _checked_state(source) != before:
        message = f"{source.path} was written or replaced while it was read. Start again once it stays as it is."
        raise SubjectError(message)


def _checked_state(source: SubjectSource) -> tuple[int, ...]:
    """The state of the file, whose content is what it was when it was found."""
    path = Path(source.path)
    try:
        state, sha256 = file_state(path), hash_files([path])[path]
    except OSError as error:
        message = f"{source.path} cannot be read any more: {error.strerror or error}."
        raise SubjectError(message) from error
    if sha256 != source.file_sha256:
        message = (
            f"{source.path} is another file than the one that was found: its sha256 was "
            f"{shortened(source.file_sha256, _SHOWN_DIGITS)} and is {shortened(sha256, _SHOWN_DIGITS)}. It was written "
            "or replaced since; start again to use the new one."
        )
        raise SubjectError(message)
    return state
