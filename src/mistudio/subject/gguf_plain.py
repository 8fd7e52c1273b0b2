"""A GGUF file as a plain folder: configuration, tokenizer and dequantised weights, made once on a machine and kept.

Every step of a pipeline loads the model anew, and to dequantise it each time would take longer than many a step. What
was made lies in the machine's scratch folder, by the content of the file and what reads it, whole or not at all; the
weights that were used longest ago make room for others. So a model in GGUF format is loaded, quantised otherwise,
placed and saved like any other.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.artifacts import canonical_json
from mistudio.artifacts.scratch import machine_folder
from mistudio.errors import SubjectError
from mistudio.progress import say
from mistudio.subject.gguf_config import config_doubts, config_of, is_read_lazily
from mistudio.subject.gguf_header import read_header
from mistudio.subject.gguf_tokens import tokenizer_doubts, tokenizer_of
from mistudio.subject.gguf_weights import write_weights
from mistudio.subject.loading import loading_problem, quiet_transformers
from mistudio.subject.source import SubjectSource

if TYPE_CHECKING:
    import torch

_FORMAT = 1  # of the copies; to be raised when they are made otherwise
_DONE = "complete.json"
_MOST_COPIES = 4  # dequantised models that are kept
_WEIGHTS = "weights"
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def config_folder(source: SubjectSource) -> str:
    """A folder with the configuration of a GGUF file, without weights.

    Raises:
        SubjectError: the file is of an architecture that transformers does not read, or is damaged.
    """
    return str(_kept(source, "config", lambda folder: _config(source).save_pretrained(folder)))


def tokenizer_folder(source: SubjectSource) -> tuple[str, str | None]:
    """A folder with the tokenizer of a GGUF file, and what there is to doubt about it.

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

    return str(_kept(source, "tokenizer", build)), tokenizer_doubts(read_header(Path(source.path)))


def weights_folder(source: SubjectSource, auto_class: Any, dtype_name: str) -> str:
    """A folder with the configuration of a GGUF file and its weights, dequantised, in a number format.

    What there is to doubt about the configuration is told.

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
    folder = _kept(source, f"{_WEIGHTS}-{dtype_name}", build)
    _drop_oldest()
    return str(folder)


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


def _kept(source: SubjectSource, part: str, build: Callable[[Path], None]) -> Path:
    """The folder of a part of a model, built where it is not there yet.

    Raises:
        SubjectError: it cannot be built or written.
    """
    readers = {name: version(name) for name in ("gguf", "transformers", "tokenizers")}
    named = {"model": source.digest, "format": _FORMAT, **readers}
    folder = _root() / hashlib.sha256(canonical_json(named)).hexdigest()[:32] / part
    if _is_whole(folder):
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder
    try:
        return _built(folder, build)
    except OSError as error:
        message = (
            f"Cannot keep what {source.path} holds in {folder.parent}: {error.strerror or error}. Make room there, or "
            "name another folder in MISTUDIO_SCRATCH."
        )
        raise SubjectError(message) from error


def _built(folder: Path, build: Callable[[Path], None]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        build(staged)
        sizes = {path.name: path.stat().st_size for path in staged.iterdir()}
        (staged / _DONE).write_text(json.dumps(sizes))
        if folder.exists() and not _is_whole(folder):
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # another process was first
            staged.rename(folder)
        if not _is_whole(folder):
            message = f"{folder} is not whole after it was written"
            raise OSError(message)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether all files of a folder are there in the sizes that they were written with."""
    try:
        sizes = json.loads((folder / _DONE).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _drop_oldest() -> None:
    """Keep the dequantised models that were used last."""
    copies = sorted(_root().glob(f"*/{_WEIGHTS}-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in copies[_MOST_COPIES:]:
        shutil.rmtree(folder, ignore_errors=True)
