"""``mistudio validate-model``, ``check-memory`` and ``gpu``: what runs here, and in how much memory."""

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.filesize import decimal

from mistudio.cli.options import StoreOption, number, option_of, parameter, with_parameters
from mistudio.settings import Leaf, validated
from mistudio.terminal import console, echo

if TYPE_CHECKING:
    from rich.table import Table

    from mistudio.steps.memory import MemoryEstimate
    from mistudio.steps.memory_config import MemoryConfig
    from mistudio.subject import SubjectConfig, SubjectSource

_VALIDATE_HELP = """Load a model, run it once, and say where to hook it. Also what it is.

Examples:

    mistudio validate-model ./models/stories260K

    mistudio validate-model smollm2 --json
"""
_MEMORY_HELP = """Estimate the memory that each step needs. At its busiest moment, by parts, and what would fit.

On a CPU that is all of the process, Python and its libraries included. No weights are loaded.
Exits with 0 if it fits, and with 2 and the reason if it does not.

Example:

    mistudio check-memory EleutherAI/pythia-1b --layer 8 --width 16384 --budget-gb 16 --dtype bfloat16
"""
_GPU_HELP = """List the GPUs of this machine, with their free memory.

Example:

    mistudio gpu --json
"""
_FAILED = 2
_MODEL = "A folder, a GGUF file, an id on the model hub, demo, smollm2, or subject/... in the store."

ModelArgument = Annotated[str, typer.Argument(help=_MODEL)]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit on the model hub.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Number format of the weights.")
]
QuantizationOption = Annotated[Literal["none", "int8", "nf4"], typer.Option(help="8 or 4 bits a weight.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("validate-model", help=_VALIDATE_HELP)(validate_model)
    app.command("check-memory", help=_MEMORY_HELP)(check_memory_command())
    app.command("gpu", help=_GPU_HELP)(gpu)


def validate_model(
    model: ModelArgument,
    revision: RevisionOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    quantization: QuantizationOption = "none",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """Load a model, run it once, and say what it is and where to hook it."""
    from mistudio.subject.config import SubjectConfig
    from mistudio.subject.validate import validate_model as validate

    settings = {"device": device, "dtype": dtype, "quantization": quantization, "trust_remote_code": trust_remote_code}
    report = validate(_source(model, revision, store), validated(SubjectConfig, settings))
    if as_json:
        echo(report.model_dump_json(indent=1))
        return
    table = _table(report.name, "", "")
    for name, value in report.model_dump().items():
        table.add_row(_title(name), _shown(value))
    _print(table)


def check_memory_command() -> Callable[..., None]:
    """``mistudio check-memory``: its options are the sizes of the work, and how the model is loaded."""
    from mistudio.settings import leaves
    from mistudio.steps.memory_config import MemoryConfig
    from mistudio.subject.config import SubjectConfig

    sizes = [leaf for leaf in leaves(MemoryConfig) if leaf.place == "command"]
    loading = list(leaves(SubjectConfig))
    budget = typer.Option(
        help="Memory to fit in, in GB.", show_default="what is free on the device", **number("budget_gb", float)
    )

    def command(model: str, budget_gb: float | None, as_json: bool, store: str, **values: Any) -> None:  # noqa: FBT001
        def given(known: list[Leaf]) -> dict[str, Any]:
            return {leaf.path: leaf.plain(values[leaf.name]) for leaf in known}

        source = _source(model, values["revision"], store)
        config = validated(SubjectConfig, given(loading))
        _check_memory(source, config, validated(MemoryConfig, given(sizes)), budget_gb, as_json=as_json)

    return with_parameters(
        command,
        [
            inspect.Parameter("model", inspect.Parameter.KEYWORD_ONLY, annotation=ModelArgument),
            *map(option_of, sizes),
            parameter("budget_gb", float, budget, None),
            *map(option_of, loading),
            parameter("revision", str, typer.Option(help="Branch, tag or commit on the model hub."), None),
            inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
            inspect.Parameter("store", inspect.Parameter.KEYWORD_ONLY, default="", annotation=StoreOption),
        ],
    )


def _check_memory(
    source: "SubjectSource", config: "SubjectConfig", work: "MemoryConfig", budget_gb: float | None, *, as_json: bool
) -> None:
    """Estimate the memory that a model and its autoencoder need, and what would fit."""
    from mistudio.steps.memory import estimate_memory

    estimate = estimate_memory(source, config, work, None if budget_gb is None else int(budget_gb * 1e9))
    if as_json:
        echo(estimate.model_dump_json(indent=1))
    else:
        _show_estimate(estimate)
    if not estimate.fits:
        raise typer.Exit(_FAILED)


def gpu(as_json: JsonOption = False) -> None:
    """List the GPUs of this machine, with their free memory."""
    import dataclasses
    import json

    from mistudio.subject.devices import list_gpus

    gpus = list_gpus()
    if as_json:
        echo(json.dumps([dataclasses.asdict(found) for found in gpus], indent=1))
        return
    if not gpus:
        echo("This machine has no GPU that PyTorch can use; everything runs on the CPU.")
        return
    table = _table("GPUs", "device", "name", "free", "total", "compute capability")
    for found in gpus:
        sizes = decimal(found.free_bytes), decimal(found.total_bytes)
        table.add_row(f"cuda:{found.index}", found.name, *sizes, found.compute_capability)
    _print(table)


def _source(model: str, revision: str | None, store: str) -> "SubjectSource":
    from mistudio.artifacts import open_to_read
    from mistudio.demo import resolve_model

    return resolve_model(model, revision, open_to_read(store, make=True))


def _show_estimate(estimate: "MemoryEstimate") -> None:
    from mistudio.steps.memory import PART_NAMES, describe

    title = f"Memory of {estimate.model} on {estimate.device} as {estimate.dtype}, {estimate.width:,} features"
    table = _steps_table(title, estimate.steps)
    for part, name in PART_NAMES.items():
        table.add_row(name, *(_short(own[part]) if own.get(part) else "" for own in estimate.parts.values()))
    table.add_section()
    table.add_row("at once", *map(_short, estimate.steps.values()))
    _print(table)
    table = _table("", "what", "needs")
    for name, num_bytes in estimate.weights_by_quantization.items():
        table.add_row(f"subject weights, quantization {name}", decimal(num_bytes))
    if estimate.offloaded_bytes:
        table.add_row("of these kept off the device", decimal(estimate.offloaded_bytes))
    table.add_section()
    table.add_row("required, with headroom", decimal(estimate.required_bytes))
    table.add_row("available", decimal(estimate.budget_bytes))
    _print(table)
    if estimate.fits:
        echo(f"It fits with {describe(estimate.asked)}.")
    else:
        echo(estimate.reason, err=True)


def _steps_table(title: str, steps: Iterable[str]) -> "Table":
    """A column a step: few lines and short figures, so that all of them fit beside each other on a narrow terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("part", title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for step in steps:
        table.add_column(step, justify="right", no_wrap=True)
    return table


def _short(num_bytes: int) -> str:
    """Three digits of a size, and its unit."""
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if num_bytes >= size:
            return f"{num_bytes / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: "Table") -> None:

    console().print(table)


def _title(name: str) -> str:
    return {"num_layers": "layers", "d_model": "width", "vocab_size": "vocabulary", "num_parameters": "parameters"}.get(
        name, name.replace("_", " ")
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "no bound" if value is None else str(value)
