"""The images as they come out of ``make images``: what is in them, and that a pod's restrictions do not stop them."""

import json
import os

import pytest

from images.locks import locked
from images.references import IMAGES
from tests.support.engines import ROOT, Engine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
IN_IMAGES = ("batch", "serve")
INSTALLED = """
import importlib.metadata as metadata, json
print(json.dumps({each.metadata["Name"]: each.version for each in metadata.distributions()}))
"""
UNWANTED = ("gcc", "cc", "g++", "clang", "tcc", "make", "pip", "pip3", "git", "curl")


def inside(engine: Engine, image: str, *command: str) -> str:
    done = engine.run_image(image, command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def normalised(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").lower()


@pytest.mark.parametrize("name", IN_IMAGES)
def test_the_command_runs_and_says_what_image_and_commit_it_is(
    engine: Engine, built: dict[str, str], name: str
) -> None:
    said = inside(engine, built[name], "mistudio", "--version")
    assert f"(image {built[name]}, commit " in said
    assert "interpret" in inside(engine, built[name], "mistudio", "--help")


def test_the_servers_start_by_the_command_of_their_manifests(engine: Engine, built: dict[str, str]) -> None:
    assert "--audit-log" in inside(engine, built["serve"], "python", "-P", "-m", "model_servers", "--help")
    assert "--audit-log" in inside(engine, built["serve"], "mistudio", "serve", "--help")


@pytest.mark.parametrize("name", IN_IMAGES)
def test_nothing_runs_as_root_and_nothing_but_scratch_and_tmp_can_be_written(
    engine: Engine, built: dict[str, str], name: str
) -> None:
    folders = "/ /opt/mistudio /usr /etc /scratch /tmp"
    tries = f"id -u; for each in {folders}; do touch $each/x 2>/dev/null && echo $each; done; true"
    assert inside(engine, built[name], "sh", "-c", tries).split() == ["65532", "/scratch", "/tmp"]
    configured = json.loads(engine.run("image", "inspect", built[name]).stdout)[0]["Config"]
    assert configured["User"] == "65532:65532"
    # Where no volume is mounted and the file system may be written, the user's own folder is there.
    done = engine.run("run", "--rm", "--network=none", built[name], "sh", "-c", "touch ~/x && pwd")
    assert done.stdout.strip() == "/scratch"


@pytest.mark.parametrize("name", IN_IMAGES)
def test_there_are_no_compilers_installers_or_leftovers_of_the_build(
    engine: Engine, built: dict[str, str], name: str
) -> None:
    assert inside(engine, built[name], "sh", "-c", f"command -v {' '.join(UNWANTED)} || true") == ""
    left = "find /opt /root /home /scratch /tmp /build -name '*.whl' -o -name '*.a' -o -name .cache"
    assert inside(engine, built[name], "sh", "-c", f"{left} 2>/dev/null || true") == ""


@pytest.mark.parametrize("name", IN_IMAGES)
def test_what_is_installed_is_what_the_locks_say_and_what_the_bill_of_materials_lists(
    engine: Engine, built: dict[str, str], name: str
) -> None:
    image = next(each for each in IMAGES if each.name == name and each.variant == "cpu")
    found = json.loads(inside(engine, built[name], "python", "-c", INSTALLED))
    installed = {normalised(each): version for each, version in found.items()}
    wanted = {each: version for lock in image.locks for each, version in locked(ROOT / lock).items()}
    assert installed == wanted | {"mistudio": installed["mistudio"]}
    bill = json.loads(inside(engine, built[name], "cat", f"/opt/mistudio/share/sbom/{name}.cdx.json"))
    parts = bill["components"]
    assert {each["name"]: each["version"] for each in parts if each["purl"].startswith("pkg:pypi/")} == installed
    assert any(each["purl"].startswith("pkg:deb/debian/libc6@") for each in parts)
    beside = ROOT / "build" / "images" / f"{name}_image.cdx.json"
    assert json.loads(beside.read_text(encoding="utf-8")) == bill


@pytest.mark.parametrize("name", IN_IMAGES)
def test_no_setting_of_the_machine_that_built_it_is_in_a_layer(
    engine: Engine, built: dict[str, str], name: str
) -> None:
    told = engine.run("history", "--no-trunc", built[name]).stdout + engine.run("image", "inspect", built[name]).stdout
    secrets = {
        value
        for key, value in os.environ.items()
        if key.startswith(("PIP_", "UV_", "AWS_", "HTTP_PROXY", "HTTPS_PROXY")) and len(value) > 8
    }
    assert not [value for value in secrets if value in told]
    outside = {"tests", "docs", ".git", ".venv", "build", "Makefile"}
    assert outside.isdisjoint(inside(engine, built[name], "ls", "-A", "/", "/opt", "/scratch").split())


def test_both_images_share_the_layer_with_torch(engine: Engine, built: dict[str, str]) -> None:
    layers = [
        json.loads(engine.run("image", "inspect", built[each]).stdout)[0]["RootFS"]["Layers"] for each in IN_IMAGES
    ]
    shared = [each for each in layers[0] if each in layers[1]]
    told = [json.loads(each)["CreatedBy"] for each in _history(engine, built["batch"]) if each]
    torch = next(place for place, line in enumerate(reversed(told)) if "COPY /opt/mistudio" in line)
    assert len(shared) >= sum("COPY" in line or "RUN" in line for line in list(reversed(told))[: torch + 1])


def _history(engine: Engine, image: str) -> list[str]:
    return engine.run("history", "--no-trunc", "--format", "{{json .}}", image).stdout.splitlines()
