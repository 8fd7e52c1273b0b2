"""Linters of others: yamllint, checkov, shellcheck, hadolint."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from checks.rendering import MANIFESTS, Document, everything
from checks.tools import ROOT, find, run

_YAML = ("manifests", ".github")


def look_yaml() -> tuple[str, Sequence[str]]:
    """The style of YAML files."""
    program = find("yamllint", "run `make check-tools`")
    folders = [ROOT / name for name in _YAML if (ROOT / name).is_dir()]
    files = [path for folder in folders for ending in ("*.yaml", "*.yml") for path in folder.rglob(ending)]
    files = [path for path in files if "secrets" not in path.parts]
    done = run([program, "--strict", "--format", "parsable", "--config-file", MANIFESTS / ".yamllint", *files])
    return f"{len(files)} files", done.stdout.splitlines() + done.stderr.splitlines()


def look_shell() -> tuple[str, Sequence[str]]:
    """Shell scripts that containers and administrators run."""
    program = find("shellcheck", "install the package shellcheck")
    files = sorted(MANIFESTS.rglob("*.sh"))
    done = run([program, "--format", "gcc", *files])
    return f"{len(files)} scripts", done.stdout.splitlines() + done.stderr.splitlines()


def look_containerfiles() -> tuple[str, Sequence[str]]:
    """What the images are built by."""
    program = find("hadolint", "run `make check-tools`")
    files = sorted((ROOT / "images").glob("*/Containerfile"))
    done = run([program, "--format", "gnu", *files])
    return f"{len(files)} files", done.stdout.splitlines() + done.stderr.splitlines()


def look_checkov() -> tuple[str, Sequence[str]]:
    """Checkov, on what a cluster gets; it does not know KServe's runtimes, so that those are shown to it as pods."""
    program = find("checkov", "run `make check-tools`")
    with tempfile.TemporaryDirectory() as folder:
        documents = [document for _, document in everything()]
        (Path(folder) / "all.yaml").write_text(yaml.safe_dump_all([*documents, *_as_pods(documents)]))
        config = MANIFESTS / ".checkov.yaml"
        done = run([program, "--config-file", config, "--directory", folder, "--output", "json"], folder=Path(folder))
    return _read(done.stdout, done.stderr)


def _as_pods(documents: Sequence[Document]) -> list[Document]:
    fields = ("containers", "volumes", "tolerations", "affinity")
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**document["metadata"], "name": f"runtime-{number}"},
            # As KServe makes it, with the account of the namespace, which has no token.
            "spec": {key: document["spec"][key] for key in fields if key in document["spec"]}
            | {"automountServiceAccountToken": False},
        }
        for number, document in enumerate(documents)
        if document["kind"] == "ServingRuntime"
    ]


def _read(said: str, errors: str) -> tuple[str, Sequence[str]]:
    try:
        content = json.loads(said)
    except ValueError:
        return "nothing", [f"checkov said no JSON: {errors[-300:]}"]
    passed = content["summary"]["passed"]
    failed = content["results"]["failed_checks"]
    skipped = content["results"].get("skipped_checks", [])
    problems = [f"{each['resource']}: {each['check_id']} {each['check_name']}" for each in failed]
    problems += [f"{each['resource']}: no reason for {each['check_id']}" for each in skipped
                 if len(each["check_result"].get("suppress_comment", "")) < 20]  # fmt: skip
    return f"{passed} checks", problems
