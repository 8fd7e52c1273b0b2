"""The calibrate step: thresholds of a watch list for a rate of false positives, and what they find of positive texts.

Reference texts are split by document. Thresholds are found on one part, so that of further texts like these at most the
asked share is above them; on the other part the rate is counted, with a bound. Positive texts are split too: one half
fits what the columns are compared with (difference of means, a linear probe; random directions need none), on the other
all are tried, at thresholds for the same rate on the same texts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, open_artifact, produce
from mistudio.artifacts import find_reference as find_named
from mistudio.directions.artifact import KIND as DIRECTION
from mistudio.directions.example_files import File
from mistudio.errors import ConfigError
from mistudio.evaluate.step import numerics
from mistudio.monitor.calibrate.calibration import KIND
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.monitor.calibrate.texts import Reference
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.subject import SubjectConfig, SubjectSource

if TYPE_CHECKING:
    from mistudio.instrument.served import Served


def calibrate(
    store: Store,
    watch_list: WatchList,
    saes: Sequence[Artifact],
    reference: Reference,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: CalibrateConfig | None = None,
    seed: int = 0,
    positive: File | None = None,
) -> Produced:
    """Publish thresholds for a watch list.

    Args:
        store: holds the artifacts, and the directions that the list names.
        watch_list: what is watched; thresholds that it has are left aside.
        saes: autoencoders of the model, in the order of serving: an entry that names none means the first.
        reference: texts that nothing is the matter with.
        source: the model.
        subject_config: how to load it.
        config: rates and how they are checked.
        seed: of the splits and draws.
        positive: texts that columns are to find; None: no recall is told.

    Raises:
        NotFound: the list names what is not there.
        ConfigError: settings do not fit each other.
        InputError: there are too few texts for the rate; the message says how many it takes.
    """
    config = config or CalibrateConfig()
    _check(watch_list, config)
    inputs = {"subject": InputRef(uri=source.uri, digest=source.digest), "reference": reference.ref}
    inputs |= {f"sae_{number:04d}": sae.ref for number, sae in enumerate(saes)}
    inputs |= {f"direction_{n:04d}": found.ref for n, found in enumerate(_directions(store, watch_list))}
    inputs |= {} if positive is None else {"positive": positive.ref}
    if watch_list.realignment is not None:
        inputs["realignment"] = open_artifact(store, watch_list.realignment, "realignment").ref
    settings = {**config.model_dump(mode="json"), "watch_list": _content(watch_list), **numerics(subject_config)}
    recipe = Recipe(kind=KIND, config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        from mistudio.monitor.calibrate.calibrating import Given, measure

        with _served(store, saes, source, subject_config, watch_list) as served:
            return measure(draft, Given(served, watch_list, reference, positive), config, seed)

    return produce(store, recipe, "calibrate", build)


def _check(watch_list: WatchList, config: CalibrateConfig) -> None:
    if config.per == "token":
        pooled = next((one for one in watch_list.watched if one.pool != "max" or one.part != "all"), None)
        if pooled is not None:
            message = (
                f"per token: {pooled.name} is pooled by {pooled.pool} over {pooled.part}, of which a token has none. "
                "Take per text, or max over all."
            )
            raise ConfigError(message)


def _content(watch_list: WatchList) -> list[dict[str, object]]:
    """What of a list thresholds depend on."""
    left_out = {"threshold", "calibration"}
    return [one.model_dump(mode="json", exclude=left_out) for one in watch_list.watched]


def _directions(store: Store, watch_list: WatchList) -> list[Artifact]:
    names = sorted({one.direction for one in watch_list.watched if one.direction is not None})
    uris = [
        name if name.startswith(f"{DIRECTION}/") else str(find_named(store, DIRECTION, name).target.uri)
        for name in names
    ]
    return [open_artifact(store, uri, DIRECTION) for uri in uris]


def _served(
    store: Store, saes: Sequence[Artifact], source: SubjectSource, subject_config: SubjectConfig, watch_list: WatchList
) -> "Served":
    from mistudio.instrument import open_session
    from mistudio.instrument.served import Served, open_served
    from mistudio.monitor.watch.realigned import accepted_versions

    if saes:
        versions = accepted_versions(store, watch_list)
        return open_served(store, [sae.uri for sae in saes], source, subject_config, versions)
    return Served(open_session((), source, subject_config), (), source.name, store)
