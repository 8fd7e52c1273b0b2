"""Bringing an autoencoder to a predictor, step by step, with a way back from each.

A canary is started without traffic, has to be ready, to be the right autoencoder and to answer with and without an
edit; then it gets its share and is watched. What takes the place of all is replaced in place, or promoted where it is
the canary already. Whatever goes wrong, or ends the process, puts back what was there before; where the process is
killed, running it again goes on, for what it finds done is not done again.
"""

import time
from collections.abc import Callable

from mistudio.cluster import inference
from mistudio.cluster.api import Cluster
from mistudio.cluster.asking import Asking
from mistudio.cluster.config import DeployConfig, Place
from mistudio.cluster.inference import Deployed
from mistudio.cluster.pods import trouble
from mistudio.cluster.resources import INFERENCE_SERVICES, Object
from mistudio.cluster.watching import watch_errors
from mistudio.errors import ClusterError, MistudioError, RolloutFailed
from mistudio.progress import say

_ALL = 100
_NOTHING = "Nothing was changed."
_OTHERS = "Somebody else has deployed meanwhile: what it serves now is left as it is."
_TRIES = 10  # to write what others write too
_POD_LABEL = "serving.kserve.io/inferenceservice"


class Rollout:
    """One deployment.

    Args:
        cluster: where.
        place: of the InferenceService.
        deployed: what is to be served.
        digest: of its autoencoder, by which the predictor is known to be the right one.
        config: how, and what it has to show.
    """

    def __init__(self, cluster: Cluster, place: Place, deployed: Deployed, digest: str, config: DeployConfig) -> None:
        self._cluster, self._place, self._config = cluster, place, config
        self._deployed, self._digest = deployed, digest
        self._undo: Callable[[], str] | None = None
        self._variant = ""  # of the canary; empty: it is the stable predictor
        self._did: list[str] = []

    def run(self) -> list[str]:
        """Deploy, and say what was done.

        Raises:
            RolloutFailed: it is not fit to serve; what was there before is back.
            ClusterError: the cluster refuses, or cannot be reached.
        """
        try:
            self._begin()
            self._wait_until_ready()
            self._check()
            self._give_share()
            self._watch()
        except BaseException as error:
            self._go_back(error)
            raise
        return self._did

    def _tell(self, what: str) -> None:
        self._did.append(what)
        say(what)

    def _begin(self) -> None:
        """Start it, where that is not done already."""
        service = self._read()
        if service is None:
            service = self._make()
        if service is None:
            return
        if not inference.is_ours(service):
            message = (
                f"InferenceService {self._place} is not managed by mistudio. Deploy to another name, or hand it over: "
                f"kubectl label inferenceservice {self._place.name} --namespace {self._place.namespace} "
                "app.kubernetes.io/managed-by=mistudio"
            )
            raise ClusterError(message)
        if inference.serves(service["spec"]["predictor"], self._deployed):
            self._find_served(service)
        elif self._config.canary_percent < _ALL:
            self._start_canary(service)
        else:
            self._replace(service)

    def _make(self) -> Object | None:
        """Make the InferenceService; the one that somebody else has made meanwhile."""
        try:
            made = self._cluster.create(INFERENCE_SERVICES, inference.new_service(self._place, self._deployed))
        except ClusterError as error:
            if error.reason != "AlreadyExists":
                raise
            return self._read()
        uid = made["metadata"]["uid"]
        if self._config.canary_percent < _ALL:
            self._tell(f"There is no {self._place} beside which it could be a canary: it gets all traffic.")
        self._undo = lambda: self._delete(uid)
        self._tell(f"Created InferenceService {self._place}, which serves {self._deployed.line}.")
        return None

    def _find_served(self, service: Object) -> None:
        self._tell(f"InferenceService {self._place} serves {self._deployed.line} already.")
        former = inference.former_of(service["spec"]["predictor"])
        if former is not None:
            self._undo = lambda: self._restore(former, None)

    def _start_canary(self, service: Object) -> None:
        entry = inference.canary_of(service, self._deployed)
        self._variant = entry["predictor"]["name"] if entry else inference.free_name(service, self._deployed)
        self._undo = self._drop_canary
        if entry is not None:
            self._tell(f"The canary {self._variant} is there, with {entry['trafficPercent']}% of the traffic.")
            return
        self._change(lambda now: inference.with_canary(now, self._deployed, self._variant, 0))
        self._tell(f"Started the canary {self._variant} of {self._place} without traffic: {self._deployed.line}.")

    def _replace(self, service: Object) -> None:
        stable = service["spec"]["predictor"]
        entry = inference.canary_of(service, self._deployed)
        self._undo = lambda: self._restore(stable, entry)
        if entry is not None:
            own = entry["predictor"]
            self._change(lambda now: inference.promoted(now, own))
            self._tell(f"Promoted the canary {own['name']} of {self._place}: {self._deployed.line}.")
            return
        self._change(lambda now: inference.with_stable(now, self._deployed.predictor(now["spec"]["predictor"])))
        replaced = ", ".join(inference.lines_of(stable)) or "what it served"
        self._tell(f"Told {self._place} to serve {self._deployed.line} in place of {replaced}.")

    def _wait_until_ready(self) -> None:
        def look() -> bool:
            service = self._there()
            if failed := inference.failure_of(service, self._variant):
                message = f"KServe cannot start {self._deployed.line}: {failed}"
                raise RolloutFailed(message)
            return inference.is_ready(service, self._variant)

        def not_yet() -> str:
            said = inference.condition(self._there(), "Ready").get("message")
            return f"it is not ready{f' ({said})' if said else ''}"

        self._until(look, not_yet)
        self._tell("It is ready.")

    def _check(self) -> None:
        """Wait until the right autoencoder answers, for pods of the one before may still do, and let it write."""
        with self._asking() as asking:
            seen: list[str] = []
            last: list[MistudioError] = []

            def look() -> bool:
                try:
                    seen[:] = asking.digests()
                except MistudioError as error:
                    last[:] = [error]
                return self._digest in seen

            def not_yet() -> str:
                if seen:
                    return f"{asking.url} serves the autoencoder {seen[0][:12]}, and not {self._digest[:12]}"
                return f"{asking.url} does not say what it serves ({last[0] if last else 'nothing was heard'})"

            self._until(look, not_yet)
            try:
                said = asking.smoke(self._config.smoke_prompt, self._config.smoke_tokens, self._config.smoke_feature)
            except RolloutFailed:
                raise
            except MistudioError as error:
                message = f"The predictor at {asking.url} does not write: {error}"
                raise RolloutFailed(message) from error
        self._tell(f"It is the right autoencoder, and it writes: {said}.")

    def _give_share(self) -> None:
        percent = self._config.canary_percent
        if not self._variant:
            return
        before = inference.canary_of(self._there(), self._deployed)
        if before is None or before["trafficPercent"] != percent:
            self._change(lambda now: inference.with_canary(now, self._deployed, self._variant, percent))
            self._tell(f"The canary {self._variant} gets {percent}% of the traffic.")

    def _watch(self) -> None:
        if self._config.watch_s:
            with self._asking() as asking:
                seen = watch_errors(asking, self._config)
            self._tell(f"Watched for {self._config.watch_s:g} s: {seen}.")

    def _go_back(self, error: BaseException) -> None:
        """Put back what was there; what is raised says what was done."""
        if self._undo is None:
            return
        why = trouble_of(self._cluster, self._place) if isinstance(error, RolloutFailed) else ""
        try:
            done = self._undo()
        except MistudioError as other:
            done = f"It could not be rolled back: {other}"
        if not isinstance(error, MistudioError):
            error.add_note(done)
            return
        message = f"{str(error).rstrip('.')}. {done}{f' Seen in the cluster: {why}' if why else ''}"
        raise RolloutFailed(message) from error

    def _delete(self, uid: str) -> str:
        now = self._read()
        if now is not None and not inference.serves(now["spec"]["predictor"], self._deployed):
            return _OTHERS
        self._cluster.delete(INFERENCE_SERVICES, self._place.namespace, self._place.name, uid)
        return f"InferenceService {self._place} was deleted again: nothing was served by it before."

    def _drop_canary(self) -> str:
        if not self._change(lambda now: inference.without_canary(now, self._variant)):
            return _NOTHING
        return f"The canary {self._variant} was taken away; {self._place} serves what it served before."

    def _restore(self, stable: Object, entry: Object | None) -> str:
        others = False

        def back(now: Object) -> Object:
            nonlocal others
            serving = now["spec"]["predictor"]
            if not inference.serves(serving, self._deployed):
                others = inference.lines_of(serving) != inference.lines_of(stable)
                return now
            if entry is None:
                return inference.with_stable(now, stable)
            kept = inference.without_canary(now, entry["predictor"]["name"])
            spec = {**kept["spec"], "predictor": stable, "canary": [*inference.canaries(kept), entry]}
            return {**kept, "spec": spec}

        if not self._change(back):
            return _OTHERS if others else _NOTHING
        return f"Rolled back: {self._place} serves {', '.join(inference.lines_of(stable)) or 'what it did'} again."

    def _change(self, how: Callable[[Object], Object]) -> bool:
        """Write a change of the service as it is now, again where another wrote meanwhile; whether there was any.

        Raises:
            ClusterError: the cluster refuses, or others never stop to write.
        """
        for tries_left in range(_TRIES - 1, -1, -1):
            now = self._there()
            wanted = how(now)
            if wanted == now:
                break
            try:
                self._cluster.update(INFERENCE_SERVICES, wanted)
            except ClusterError as error:
                if error.reason != "Conflict" or not tries_left:
                    raise
            else:
                return True
        return False

    def _read(self) -> Object | None:
        return self._cluster.get(INFERENCE_SERVICES, self._place.namespace, self._place.name)

    def _there(self) -> Object:
        found = self._read()
        if found is None:
            message = f"InferenceService {self._place} is gone: somebody has deleted it meanwhile."
            raise RolloutFailed(message)
        return found

    def _asking(self) -> Asking:
        url = self._config.service_url or inference.url_of(self._there(), self._variant)
        return Asking(url, self._config.request_timeout_s)

    def _until(self, look: Callable[[], bool], not_yet: Callable[[], str]) -> None:
        """Look until it is so.

        Raises:
            RolloutFailed: it is not within the time for being ready.
        """
        deadline = time.monotonic() + self._config.ready_timeout_s
        while not look():
            if time.monotonic() > deadline:
                message = f"After {self._config.ready_timeout_s:g} s {not_yet()}"
                raise RolloutFailed(message)
            time.sleep(self._config.check_every_s)


def trouble_of(cluster: Cluster, place: Place) -> str:
    """What its pods say, where that may be seen."""
    try:
        return trouble(cluster, place.namespace, {_POD_LABEL: place.name})
    except ClusterError:
        return ""
