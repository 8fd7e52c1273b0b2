"""Registered autoencoders: the step register, promoting, and MLflow's registry as a mirror of the store's names."""

import getpass
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mistudio.artifacts import Artifact, Catalog, Line, Store, open_artifact, record_action
from mistudio.artifacts.models import (
    CANDIDATE,
    Moved,
    Version,
    alias_history,
    check_model_name,
    find_version,
    model_aliases,
    model_names,
    model_versions,
    move_alias,
    register_version,
)
from mistudio.errors import InputError, MistudioError
from mistudio.events import Message, emit
from mistudio.plain_text import in_markdown
from mistudio.steps.context import Context
from mistudio.steps.figures import MEASURED_BY, autoencoder, headlines, lineage
from mistudio.steps.spec import Argument, Asked, Input, Inputs, Step
from mistudio.tracking import Connection, RegisteredVersion, is_tracking, mirror_registry, mirrored_digests
from mistudio.tracking.views import FIGURES, STEP

_UNKNOWN_AUTHOR = "pipeline"  # a container's user has no name


class Registered(NamedTuple):
    """A version of a model as it is listed.

    Attributes:
        version: of the model.
        aliases: those that stand for it now.
        figures: of the newest evaluation and scores.
        problem: why the autoencoder cannot be opened; empty where it can.
    """

    version: Version
    aliases: tuple[str, ...]
    figures: Mapping[str, Any]
    problem: str


def _register(context: Context, inputs: Inputs, _config: None) -> str:
    """Register an autoencoder as a version of a model, and make it the candidate, where it never was."""
    name = str(context.argument("name") or "")
    if not name:
        return ""
    sae, measured = inputs.one("sae"), {kind: inputs.maybe(kind) for kind in MEASURED_BY}
    for kind, made in measured.items():
        if made is not None:
            _check_of(made, kind, sae)
    store, author = context.store, str(context.argument("author") or author_here())
    version, is_new = register_version(store, name, sae, author)
    if is_new or not _was_candidate(store, version):
        move_alias(store, version, CANDIDATE, author)
        record_action(store, "register", sae.uri, sae.digest, model=str(version), author=author)
    aliases = [alias for alias, each in model_aliases(store, name).items() if each.number == version.number]
    is_what = f" ({', '.join(aliases)})" if aliases else ""
    emit(Message(text=f"{sae.uri} is {'now' if is_new else 'already'} registered as {version}{is_what}"))
    if is_new:
        _log(context, version, sae)
    mirror(store, name, context.run.connection, measured)
    return str(version)


def promote(store: Store, name: str, number: int | None, alias: str, author: str) -> Moved:
    """Let an alias stand for a version of a model, in the store and in MLflow.

    Args:
        store: has the names.
        name: of the model.
        number: of the version; None: the candidate.
        alias: which is moved.
        author: who says so.

    Raises:
        NotFound: nothing is registered so.
        InputError: there is no such alias.
        DamagedArtifact: the autoencoder is no longer what was registered.
    """
    moved = move_alias(store, find_version(store, name, number), alias, author)
    if moved.before is None or moved.before.number != moved.after.number:
        sae, was = moved.after.sae, str(moved.before or "")
        record_action(
            store, "promote", sae.uri, sae.digest, model=str(moved.after), alias=alias, was=was, author=author
        )
    mirror(store, name, Connection())
    return moved


def registered(store: Store, name: str = "") -> Iterator[Registered]:
    """All versions of all models, or of one, the oldest first; what is gone from the store says so."""
    with Catalog(store) as catalog:
        for each in [name] if name else model_names(store):
            aliases = model_aliases(store, each)
            for version in model_versions(store, each):
                own = tuple(alias for alias, of in aliases.items() if of.number == version.number)
                try:
                    sae = open_artifact(store, version.sae.uri, "sae")
                    yield Registered(version, own, _figures(_measured(catalog, sae)), "")
                except MistudioError as error:
                    yield Registered(version, own, {}, str(error))


def mirror(
    store: Store, name: str, connection: Connection, given: Mapping[str, Artifact | None] | None = None
) -> list[Version]:
    """Make MLflow's registry say of a model what the store says; the versions that it lacked.

    Args:
        store: has the names.
        name: of the model.
        connection: what MLflow is asked by; it says where that failed.
        given: evaluation and scores to take the figures of a new version from; what is not given is the newest.
    """
    if not is_tracking():
        return []
    known = mirrored_digests(store.url, connection, name)
    if connection.failure:
        return []
    made: dict[Version, RegisteredVersion] = {}
    for each in model_versions(store, name):
        if each.sae.digest not in known:
            with suppress(MistudioError):  # it is gone from the store
                made[each] = _described(store, each, given or {})
    there = {*known, *(each.model.digest for each in made.values())}
    aliases = {alias: each.sae.digest for alias, each in model_aliases(store, name).items() if each.sae.digest in there}
    mirror_registry(store.url, connection, name, list(made.values()), aliases)
    return list(made)


def author_here() -> str:
    """Who runs this process, for the record; containers do not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return _UNKNOWN_AUTHOR


def _was_candidate(store: Store, version: Version) -> bool:
    moves = alias_history(store, version.name)
    return any(each.kind == CANDIDATE and of is not None and of.number == version.number for each, of in moves)


def _log(context: Context, version: Version, sae: Artifact) -> None:
    model = autoencoder(sae)
    context.run.rename(f"register {version}")
    context.run.set_tags({STEP: "register", "registered": str(version), **lineage(sae)})
    if model is not None:
        context.run.log_model(model, made=False)


def _check_of(made: Artifact, kind: str, sae: Artifact) -> None:
    """Refuse figures of another autoencoder."""
    of = Line(made.store, made).sae
    if of.digest != sae.digest:
        message = f"{kind} {made.uri} is of {of.uri}, and {sae.uri} is to be registered: name those of one autoencoder."
        raise InputError(message)


def _described(store: Store, version: Version, given: Mapping[str, Artifact | None]) -> RegisteredVersion:
    sae = open_artifact(store, version.sae.uri, "sae")
    with Catalog(store) as catalog:
        measured = _measured(catalog, sae)
    measured |= {kind: made for kind, made in given.items() if made is not None and Line(store, made).sae == sae}
    figures = _figures(measured)
    places = {f"{kind}.{what}": value for kind, made in measured.items() for what, value in _place(made)}
    model = autoencoder(sae)
    if model is None:
        message = f"{sae.uri} is no autoencoder."
        raise InputError(message)
    main = {name: figures[name] for name in FIGURES if name in figures}
    tags = {**main, **lineage(sae), **places, "registered by": version.author, "registered at": version.created_at}
    rows = "".join(f"| {in_markdown(figure)} | {value:.4g} |\n" for figure, value in figures.items())
    name = in_markdown(model.name).replace("\\_", "_")  # lists show it as it is written
    head = f"{name}: `{sae.uri}`\n\n"
    return RegisteredVersion(version.number, model, tags, f"{head}| figure | value |\n| --- | ---: |\n{rows}")


def _place(artifact: Artifact) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("uri", artifact.uri), ("digest", artifact.digest)


def _measured(catalog: Catalog, sae: Artifact) -> dict[str, Artifact]:
    """The newest evaluation and scores of an autoencoder."""
    found = {"evaluation": catalog.newest_from(sae, "evaluation")}
    features = catalog.newest_from(sae, "features")
    explanations = None if features is None else catalog.newest_from(features, "explanations")
    found["scores"] = None if explanations is None else catalog.newest_from(explanations, "scores")
    return {kind: made for kind, made in found.items() if made is not None}


def _figures(measured: Mapping[str, Artifact]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind, made in measured.items():
        figures |= headlines(MEASURED_BY[kind], made.manifest.summary)
    return figures


def _check(asked: Asked, _others: Mapping[str, Asked]) -> None:
    if name := asked.given.get("name"):
        check_model_name(str(name))


REGISTER = Step(
    name="register",
    title="Register autoencoder",
    summary="Register an autoencoder as a version of a model, the candidate from then on.",
    inputs=(
        Input("sae", "sae", "Trained autoencoder (sae/...)."),
        Input("evaluation", "evaluation", "Evaluation of it, for its figures; not given: the newest.", optional=True),
        Input("scores", "scores", "Scores of its explanations, for its figures; not given: the newest.", optional=True),
    ),
    arguments=(
        Argument("name", str, "Name of the model that it becomes a version of; None: nothing is registered."),
        Argument("author", str, "Who says so; None: the user that runs the step.", place="command"),
    ),
    returns="str",
    returned="Name and number of the version, such as stories/3; empty where nothing is registered.",
    check=_check,
    run=_register,
)
