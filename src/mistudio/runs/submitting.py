"""Submitting a pipeline: compiled, uploaded as a version named by the git commit, in an experiment."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mistudio.errors import Conflict
from mistudio.runs import checkout
from mistudio.runs.cluster import Cluster, Version
from mistudio.runs.versions import VersionName, version_name

DEFAULT_EXPERIMENT = "mistudio"
_EXPERIMENT = "Runs of miStudio's pipelines"


@dataclass(frozen=True)
class Submission:
    """How a pipeline is submitted.

    Attributes:
        experiment: that its run belongs to; made where there is none.
        name: of the run; empty: the pipeline and the time.
        version: name of the pipeline's version; empty: the git commit.
        service_account: of the run's pods; empty: Kubeflow's.
        cache: whether Kubeflow takes outputs of earlier runs from its cache; None: as the placement says.
        placement: file that says which machines the steps run on.
    """

    experiment: str = DEFAULT_EXPERIMENT
    name: str = ""
    version: str = ""
    service_account: str = ""
    cache: bool | None = None
    placement: Path | None = None


def upload(cluster: Cluster, pipeline: str, how: Submission) -> Version:
    """Compile a pipeline and upload it as a version named by the git commit, unless that is there.

    Raises:
        Conflict: there is a version of that name with another content.
        ClusterError: Kubeflow refuses, or cannot be reached.
    """
    loaded = checkout.load_pipeline(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / f"{pipeline}.yaml"
        functions = checkout.kfp_functions()
        functions.compile_to(loaded, compiled, how.placement)
        if how.cache is not None:
            functions.set_cache(compiled, use=how.cache)
        name = version_name(compiled.read_bytes(), own=how.version, committed=_committed(pipeline))
        pipeline_id = cluster.pipeline_id(pipeline) or _make_pipeline(cluster, pipeline, loaded.description or "")
        found = cluster.find_version(pipeline_id, name.name)
        return _checked(found, name) if found else _upload(cluster, pipeline_id, name, compiled)


def _committed(pipeline: str) -> bytes:
    """The compiled pipeline of the checkout; empty where it has none."""
    path = checkout.compiled_folder() / f"{pipeline}.yaml"
    return path.read_bytes() if path.is_file() else b""


def experiment_id(cluster: Cluster, name: str) -> str:
    """The id of an experiment, which is made where there is none."""
    found = cluster.experiment_id(name)
    if found is not None:
        return found
    try:
        return cluster.make_experiment(name, _EXPERIMENT)
    except Conflict:  # somebody was quicker
        found = cluster.experiment_id(name)
        if found is None:
            raise
        return found


def _make_pipeline(cluster: Cluster, name: str, description: str) -> str:
    try:
        return cluster.make_pipeline(name, description)
    except Conflict:  # somebody was quicker
        found = cluster.pipeline_id(name)
        if found is None:
            raise
        return found


def _upload(cluster: Cluster, pipeline_id: str, name: VersionName, compiled: Path) -> Version:
    try:
        return cluster.upload_version(pipeline_id, name.name, name.description, compiled)
    except Conflict:
        found = cluster.find_version(pipeline_id, name.name)
        if found is None:
            raise
        return _checked(found, name)


def _checked(found: Version, name: VersionName) -> Version:
    if not name.is_that_of(found.description):
        message = (
            f"Kubeflow has a version {found.name} of this pipeline with another content ({found.description}): give "
            "this one another name with --version."
        )
        raise Conflict(message)
    return found
