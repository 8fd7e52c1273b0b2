"""A cluster with KServe in it, whose predictors are real servers of this process."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistudio.activations import ActivationReader
from mistudio.artifacts import Artifact, Store, open_artifact
from mistudio.cluster.api import Patience
from mistudio.errors import ConfigError
from mistudio.instrument.served import open_served
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectSource
from model_servers.base.keys import read_keys
from model_servers.base.settings import ServerSettings
from model_servers.base.shared import Shared
from model_servers.steer.predictor import SteerPredictor
from tests.support.directions import random_directions
from tests.support.kube_accounts import ACCOUNT, MAY_DEPLOY, SERVICES, TOKEN, kubeconfig
from tests.support.kube_api import KubeApi
from tests.support.kube_api.kserve_part import KServe, Start, serving_runtime
from tests.support.kube_api.network import Network
from tests.support.served import FEATURES, TinyStore
from tests.support.serving import serving, url_of
from tests.support.tiny import WIDTH
from tests.support.tiny_run import HOOK, publish_sae, published_in

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-deployer"
KEYS = read_keys(ServerSettings(), {"MISTUDIO_API_KEYS": f"deployer:{KEY}"})


@dataclass
class Stage:
    """What plays in a test."""

    api: KubeApi
    network: Network
    kserve: KServe


@contextmanager
def stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, start: Start, *arguments: str, runtime: dict[str, Any] | None = None
) -> Iterator[Stage]:
    """A cluster that this process is connected to, as the pods of runs are."""
    kinds = ("inferenceservices", "servingruntimes")
    with KubeApi(*kinds) as api, Network() as network, KServe(api, network, start) as kserve:
        api.rights.account(ACCOUNT, TOKEN, MAY_DEPLOY)
        api.put("servingruntimes", SERVICES, runtime or serving_runtime(SERVICES, *arguments))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(folder, api)))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("HTTP_PROXY", network.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("MISTUDIO_API_KEY", KEY)
        yield Stage(api, network, kserve)


def in_process(store: Store, source: SubjectSource, refused: Callable[[str], bool] = lambda _line: False) -> Start:
    """Containers are servers of this process, with what their arguments name."""

    def start(arguments: list[str]) -> tuple[str, Callable[[], None]]:
        line = arguments[arguments.index("--line") + 1]
        if refused(line):
            raise ConfigError(f"there is no {line} in this store")
        stack = ExitStack()
        predictor = SteerPredictor(Shared(lambda: open_served(store, [line], source)))
        server = stack.enter_context(serving([predictor], KEYS))
        return url_of(server), stack.close

    return start


class Processes:
    """Containers are processes, as their images would start them, each at an address of its own.

    Args:
        environment: that a ServingRuntime's container has.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
        self._addresses = (f"127.{random.randint(2, 250)}.{random.randint(2, 250)}.{last}" for last in range(2, 250))

    def start(self, arguments: list[str]) -> tuple[str, Callable[[], None]]:
        address = next(self._addresses)
        own = [f"--host={address}" if each == "--host=0.0.0.0" else each for each in arguments]
        command = [sys.executable, "-P", "-m", "model_servers", *own]
        process = subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True)
        lines: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda stream: lines.extend(stream), args=[process.stderr])
        reader.start()

        def stop() -> None:
            process.terminate()
            process.wait(60)
            reader.join()
            process.stderr.close()  # type: ignore[union-attr]

        url = f"http://{address}:8080"
        while process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/v2/health/ready", timeout=10, trust_env=False).is_success:
                    return url, stop
            time.sleep(0.1)
        stop()
        raise ChildProcessError(lines[-1].strip())


def another_sae(tiny: TinyStore) -> Artifact:
    """A second autoencoder in the store."""
    activations = open_artifact(tiny.store, published_in(tiny.store)["activations"].uri)
    sample_ND = ActivationReader(activations, HOOK, "train").acts(0, 200).float()
    sae = random_directions(TopKConfig(width=FEATURES, k=6), WIDTH, sample_ND.mean(dim=0), seed=4)
    return publish_sae(tiny.store, sae, activations)


QUICK = Patience(connect_s=5, answer_s=10, total_s=20, first_wait_s=0.01, most_wait_s=0.05)
