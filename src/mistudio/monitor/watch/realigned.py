"""A watch list of an old version of the model, read in a new one: through the maps that a realignment has found.

Shape legend: D width of a hook point, N tokens.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mistudio.artifacts import Artifact, Store, open_artifact
from mistudio.errors import InputError
from mistudio.instrument.served import Served
from mistudio.monitor.revalidate.realignment import KIND, Verdict, open_realignment
from mistudio.monitor.watch.watch_list import WatchList

if TYPE_CHECKING:
    from mistudio.monitor.watch.columns import Column

ActsMap = Callable[[Tensor], Tensor]  # of activations [..., D]


def accepted_versions(store: Store, watch_list: WatchList) -> frozenset[str]:
    """Digests of the models that a list is for beside the one that its autoencoders were trained on.

    Raises:
        NotFound: there is no such realignment.
    """
    if watch_list.realignment is None:
        return frozenset()
    return frozenset([open_artifact(store, watch_list.realignment, KIND).manifest.inputs["subject"].digest])


def open_readings(served: Served, watch_list: WatchList) -> "Readings | None":
    """How the columns of a list are read, as its realignment says; None: as they are.

    Raises:
        NotFound: there is no such realignment.
        InputError: it is of another version of the model than the one that is loaded.
        DamagedArtifact: its files do not belong together.
    """
    if watch_list.realignment is None:
        return None
    return Readings(open_artifact(served.store, watch_list.realignment, KIND), served)


class Readings:
    """What a realignment says of columns.

    Args:
        artifact: of kind ``realignment``.
        served: the new version.

    Attributes:
        digest: of the artifact.

    Raises:
        InputError: another version is loaded.
        DamagedArtifact: its files do not belong together.
    """

    def __init__(self, artifact: Artifact, served: Served) -> None:
        self._uri, self.digest, realignment = artifact.uri, artifact.digest, open_realignment(artifact)
        source = served.session.source
        if source is None or source.digest != realignment.found.subject_digest:
            other = "a model of unknown origin" if source is None else f"{source.uri}, which has other content"
            message = (
                f"watch list: {self._uri} is for {realignment.found.subject}, not for {other}. Leave realignment out, "
                "or run mistudio monitor revalidate on this version."
            )
            raise InputError(message)
        device = served.session.subject.device
        self._verdicts: dict[str, Verdict] = {one.digest: one for one in realignment.found.verdicts if one.digest}
        self._maps: dict[str, ActsMap] = {}
        self._is_better: set[str] = set()
        for hook, each in realignment.maps.items():
            weight_DD = torch.from_numpy(each.weight_DD).to(device, torch.float32)
            self._maps[hook] = _affine(weight_DD, torch.from_numpy(each.shift_D).to(device, torch.float32))
            if each.unexplained < each.unexplained_as_is:
                self._is_better.add(hook)

    def of_column(self, column: "Column") -> ActsMap | None:
        """What activations go through before a column reads them; None: nothing, for it was kept.

        Raises:
            InputError: it was refused, or not looked at.
        """
        verdict = self._verdicts.get(column.digest)
        if verdict is None:
            message = (
                f"watch list, {column.name}: {self._uri} says nothing of it: it was made for other columns, or these "
                "are pooled otherwise. Run mistudio monitor reference with this list on the old version, and "
                "revalidate on this one."
            )
            raise InputError(message)
        if verdict.outcome == "refused":
            message = (
                f"watch list, {column.name}: {self._uri} refused it in this version ({verdict.reason}): leave it out, "
                "or make it anew."
            )
            raise InputError(message)
        return self._maps[verdict.hook] if verdict.outcome == "realigned" else None

    def of_all(self, hook: str) -> ActsMap | None:
        """What activations of a hook point go through before all features are read, where that brings them nearer."""
        return self._maps[hook] if hook in self._is_better else None


def _affine(weight_DD: Tensor, shift_D: Tensor) -> ActsMap:
    return lambda x_D: x_D.to(weight_DD.dtype) @ weight_DD + shift_D
