"""Architectures of other packages: found by entry point, refused by name where they are none."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mistudio.artifacts import open_artifact, open_store
from mistudio.errors import ConfigError
from mistudio.sae import (
    architecture_config,
    architecture_configs,
    architectures,
    built_in_configs,
    load_autoencoder,
    new_autoencoder,
)
from tests.support.synthetic import plant, publish_activations

DOCS = Path(__file__).parents[3] / "docs" / "concepts" / "architectures.md"


def _look_again() -> None:
    architectures.cache_clear()
    architecture_configs.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Put a package with an entry point where Python finds it."""

    def install(code: str, target: str) -> None:
        (tmp_path / "my_package.py").write_text(code, encoding="utf-8")
        info = tmp_path / "my_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[mistudio.architectures]\nmine = {target}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        _look_again()

    yield install
    _look_again()
    sys.modules.pop("my_package", None)


def test_the_example_in_the_docs_trains_by_its_command_and_is_loaded(
    install: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    text = DOCS.read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "class Capped" in code)
    (target,) = re.findall(r'^capped = "(.*)"$', text, flags=re.MULTILINE)
    (example,) = re.findall(r"^mistudio (train .*--architecture capped.*)$", text, flags=re.MULTILINE)
    install(code, target)
    rows_ND = plant(2_000, width=12).acts_ND
    store = open_store(str(tmp_path / "store"))
    given = example.replace("activations/...", publish_activations(store, rows_ND).uri).split()
    # Rows a hundred times as long are within no norm limit.
    small = ["--width", "64", "--tokens", "8000", "--batch-size", "200", "--device", "cpu", "--max-norm-ratio", "-1"]
    # In a process of its own: what can be chosen is looked up once in each.
    command = [sys.executable, "-m", "mistudio", *given, *small, "--store", store.url, "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    artifact = open_artifact(store, json.loads(done.stdout)["artifact_uri"], "sae")
    sae = load_autoencoder(artifact)
    assert type(sae).__name__ == "CappedAutoencoder"
    settings = artifact.manifest.config["sae"]
    assert (settings["architecture"], settings["k"]) == ("capped", 8)
    with torch.no_grad():
        assert float(sae.encode(rows_ND * 100).max()) == 6.0


def test_configurations_are_those_of_the_architectures(install: Callable[[str, str], None]) -> None:
    built_in = architecture_configs()
    assert built_in == {name: kind.Config for name, kind in architectures().items()}
    code = (
        "from typing import Literal\n"
        "from mistudio.sae import TopKConfig\n"
        "from mistudio.sae.topk import TopKAutoencoder\n"
        "class Config(TopKConfig):\n    architecture: Literal['mine'] = 'mine'\n"
        "class Mine(TopKAutoencoder):\n    Config = Config\n"
    )
    install(code, "my_package:Mine")
    assert architecture_configs() == {**built_in, "mine": architectures()["mine"].Config}


@pytest.mark.parametrize("name", built_in_configs())
def test_a_built_in_configuration_says_where_its_class_is_and_what_makes_it_sparse(name: str) -> None:
    config = built_in_configs()[name]
    assert architectures()[name].Config is config
    assert config.sparsity.keys() <= config.model_fields.keys()
    assert config.l0_setting in config.sparsity
    assert config is architecture_config(name)


def test_a_name_that_nobody_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="architecture 'relu' is unknown: use one of topk, batchtopk"):
        architecture_config("relu")


def test_one_that_says_nothing_of_training_can_be_used_and_not_trained(install: Callable[[str, str], None]) -> None:
    code = (
        "from typing import Literal\n"
        "from mistudio.sae import ArchitectureConfig, SparseAutoencoder\n"
        "from mistudio.sae.kernels import ActivePattern\n"
        "class Config(ArchitectureConfig):\n    architecture: Literal['mine'] = 'mine'\n"
        "class Mine(SparseAutoencoder):\n"
        "    Config = Config\n"
        "    def select(self, pre_TF):\n        return ActivePattern.of_mask(pre_TF > 1)\n"
    )
    install(code, "my_package:Mine")
    sae = new_autoencoder(architecture_config("mine")(width=64), 4)
    assert not sae.encode(torch.ones(3, 4)).any()
    with pytest.raises(ConfigError, match="mine has no training"):
        sae.for_training()


def test_what_is_no_architecture_is_refused(install: Callable[[str, str], None]) -> None:
    install("thing = 3\n", "my_package:thing")
    with pytest.raises(ConfigError, match=r"mine \(my_package:thing\) is not a subclass of SparseAutoencoder"):
        architectures()


def test_a_name_that_is_taken_is_refused(install: Callable[[str, str], None]) -> None:
    code = "from mistudio.sae.topk import TopKAutoencoder\nclass Other(TopKAutoencoder):\n    pass\n"
    install(code, "my_package:Other")
    with pytest.raises(ConfigError, match="has the name 'topk', which is taken"):
        architectures()
