"""``mistudio monitor profile``, ``reference`` and ``revalidate``: what a watch on traffic is measured against."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mistudio.cli.options import StoreOption
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.artifacts import Produced, Store
    from mistudio.instrument.served import Served
    from mistudio.monitor.watch.watch_list import WatchList
    from mistudio.subject import SubjectSource

_PROFILE_HELP = """Count in how many texts each feature fires.

Drift is measured against that. Of the corpus that the autoencoder's activations were captured from, which needs no
model; or, with --traffic, of recorded traffic, which is better where it is clean, since its texts are as long as
those to come. With --watch-list, the values of its columns are counted too; that needs --traffic.

Examples:

    mistudio monitor profile

    mistudio monitor profile --traffic s3://payloads/default/tinyllama --watch-list watch.yaml
"""
_REFERENCE_HELP = """Keep what a watch list sees in reference texts.

A later version of the model is held to that by mistudio monitor revalidate.

Example:

    mistudio monitor reference watch.yaml
"""
_REVALIDATE_HELP = """Hold a watch list to a new version of the watched model.

REFERENCE is an artifact that mistudio monitor reference made with the old version. Each column is kept, realigned
without labels, or refused; where one is refused, the exit status is 3.

Example:

    mistudio monitor revalidate reference/0123456789abcdef --model ./fine-tuned
"""
LineOption = Annotated[
    list[str] | None, typer.Option("--line", help="Artifact of an autoencoder or what was made of it; may be repeated.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="The model, where it does not lie where its captures say: folder, GGUF file, hub id, subject/..."
    ),
]


def add(monitor: typer.Typer) -> None:
    """Add the commands to those of the monitor."""
    monitor.command("profile", help=_PROFILE_HELP)(profile)
    monitor.command("reference", help=_REFERENCE_HELP)(reference)
    monitor.command("revalidate", help=_REVALIDATE_HELP)(revalidate)


def profile(
    line: LineOption = None,
    split: Annotated[Literal["train", "heldout"], typer.Option(help="Of the corpus.")] = "train",
    unit: Annotated[Literal["document", "sequence"], typer.Option(help="What a text is.")] = "document",
    traffic: Annotated[str, typer.Option(help="Recorded traffic in place of the corpus.")] = "",
    watch_list: Annotated[Path | None, typer.Option(help="File of a watch list, with --traffic.")] = None,
    model: ModelOption = "",
    store: StoreOption = "",
) -> None:
    """Count in how many texts each feature fires."""
    from mistudio.artifacts import Catalog, Line, open_artifact, open_store
    from mistudio.errors import ConfigError
    from mistudio.monitor.drift.profile_artifact import ProfileConfig, line_profile

    opened = open_store(store)
    if watch_list is not None and not traffic:
        message = "--watch-list needs --traffic: activations that were captured say nothing of its columns."
        raise ConfigError(message)
    if traffic:
        _tell(opened, _of_traffic(opened, line or [], traffic, watch_list, model))
        return
    if not line:
        with Catalog(opened) as catalog:
            lines = [catalog.newest_line()]
    else:
        lines = [Line(opened, open_artifact(opened, uri)) for uri in line]
    for each in lines:
        _tell(opened, line_profile(each, ProfileConfig(split=split, unit=unit)))


def reference(
    watch_list: Annotated[Path, typer.Argument(help="File of the watch list.")],
    line: LineOption = None,
    corpus: Annotated[str, typer.Option(help="Corpus of the texts. [default: that of the autoencoder]")] = "",
    split: Annotated[Literal["train", "heldout"], typer.Option(help="Of the corpus.")] = "heldout",
    max_texts: Annotated[int, typer.Option(min=40, help="Sequences at most, drawn at random.")] = 2000,
    model: ModelOption = "",
    store: StoreOption = "",
) -> None:
    """Keep what a watch list sees in reference texts."""
    from mistudio.artifacts import open_store
    from mistudio.instrument.served import open_served
    from mistudio.monitor.revalidate.config import ReferenceConfig
    from mistudio.monitor.revalidate.reference import corpus_of
    from mistudio.monitor.revalidate.reference import reference as make
    from mistudio.monitor.watch.watch_list import read_watch_list

    opened, listed = open_store(store), read_watch_list(watch_list)
    with open_served(opened, line or [], _source(opened, model)) as served:
        config = ReferenceConfig(split=split, max_texts=max_texts)
        made = make(served, corpus_of(opened, served, corpus or None), listed, config)
    _tell(opened, made)


def revalidate(
    reference: Annotated[str, typer.Argument(help="Artifact of kind reference.")],
    model: Annotated[str, typer.Option(help="The new version: folder, GGUF file, id on the hub, or subject/...")],
    min_correlation: Annotated[float, typer.Option(min=0, max=1, help="Of a text's old and new value.")] = 0.9,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, help="Above the threshold: Cohen's kappa.")] = 0.8,
    store: StoreOption = "",
) -> None:
    """Hold a watch list to a new version of the watched model."""
    from mistudio.artifacts import open_artifact, open_store
    from mistudio.monitor.revalidate.config import RevalidateConfig
    from mistudio.monitor.revalidate.realignment import check_none_refused, open_realignment
    from mistudio.monitor.revalidate.revalidate import revalidate as judge
    from mistudio.subject import resolve_source

    config = RevalidateConfig(min_correlation=min_correlation, min_agreement=min_agreement)
    opened = open_store(store)
    source = _source(opened, model) or resolve_source(model)
    made = judge(open_artifact(opened, reference, "reference"), source, config)
    found = open_realignment(made.artifact)
    for one in found.found.verdicts:
        figures = [
            f"{name}: correlation {_shown(each.correlation)}, agreement {_shown(each.agreement)}"
            for name, each in (("as it is", one.as_is), ("realigned", one.realigned))
        ]
        echo(f"{one.outcome:<9}  {one.name}  {'; '.join(figures)}  {one.reason if one.num_above == 0 else ''}".rstrip())
    for hook, each in found.maps.items():
        echo(f"{hook}: a {each.kind} leaves {each.unexplained:.2%} unexplained, none {each.unexplained_as_is:.2%}")
    _tell(opened, made)
    check_none_refused(found)


def _of_traffic(store: "Store", lines: list[str], traffic: str, watch_list: Path | None, model: str) -> "Produced":
    from mistudio.instrument.served import open_served
    from mistudio.monitor.drift.profile import Profile
    from mistudio.monitor.drift.profile_artifact import inputs_of, publish_profile
    from mistudio.monitor.traffic.config import TrafficSettings
    from mistudio.monitor.traffic.parquet_source import RecordedTraffic
    from mistudio.monitor.watch.watching import Watcher

    recorded = RecordedTraffic(traffic, TrafficSettings())
    with open_served(store, lines, _source(store, model)) as served:
        listed = _watch_list(served, watch_list)
        watcher = Watcher(served, listed)
        widths = {placed.uri: placed.sae.width for placed in served.session.autoencoders}
        seen = (one for exchange in recorded.exchanges() for one in watcher.observe([exchange]))
        columns = watcher.columns if watch_list is not None else ()
        found = Profile.gathered(seen, widths, {one.name: one.identity for one in columns}, {"traffic": "recorded"})
        return publish_profile(store, found, inputs_of([one.line.sae for one in served.features]))


def _source(store: "Store", model: str) -> "SubjectSource | None":
    """The model that is named; None: none is."""
    from mistudio.artifacts import open_artifact
    from mistudio.subject import artifact_source, resolve_source

    if not model:
        return None
    is_stored = model.startswith("subject/")
    return artifact_source(open_artifact(store, model, "subject")) if is_stored else resolve_source(model)


def _watch_list(served: "Served", path: Path | None) -> "WatchList":
    """What is read: all features, and the columns of the file."""
    from mistudio.monitor.watch.watch_list import Watched, WatchList, read_watch_list

    listed = read_watch_list(path) if path else WatchList(watched=(Watched(name="first", feature=0),))
    every = tuple(placed.uri for placed in served.session.autoencoders)
    return listed.model_copy(update={"encode_in_full": every})


def _tell(store: "Store", made: "Produced") -> None:
    """Say what there is now, and put on record that it was published."""
    from mistudio.artifacts import record_action

    artifact = made.artifact
    if not made.found:
        record_action(store, "publish", artifact.uri, artifact.digest)
    figures = ", ".join(f"{name} {value}" for name, value in sorted(artifact.manifest.summary.items()))
    echo(f"{artifact.uri}: {figures}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
