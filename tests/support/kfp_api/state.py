"""What the server was told: pipelines, versions, experiments and runs."""

import base64
import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.support.kfp_api.models import Refused, invalid
from tests.support.kfp_api.workflow import Workflow

_TYPES = {
    "NUMBER_INTEGER": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0,
    "NUMBER_DOUBLE": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "STRING": lambda value: isinstance(value, str),
    "BOOLEAN": lambda value: isinstance(value, bool),
}
_UNFINISHED = datetime(1970, 1, 1, tzinfo=UTC)
_CRON = re.compile(r"([\d*/,-]+ ){5}[\d*/,-]+")
_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


class StoredRun:
    """A run, which a test moves on."""

    def __init__(self, model: Any, pipeline: str, namespace: str, spec: dict[str, Any]) -> None:
        self.model, self.namespace, self.spec = model, namespace, spec
        self.workflow = Workflow(pipeline, model.run_id)
        self.logs: dict[str, bytes] = {}
        self.names_pods = True

    def become(self, state: str, message: str = "") -> None:
        """Change the state of the whole run."""
        self.model.state = state
        self.model.error = kfp_server_api.GoogleRpcStatus(code=2, message=message) if message else None
        if state in _ENDED:
            self.model.finished_at = datetime.now(UTC)
            self.workflow.close(state)

    @property
    def has_ended(self) -> bool:
        return self.model.state in _ENDED

    def shown(self, *, details: bool) -> Any:
        nodes = [node.detail(self.model.run_id, names_pods=self.names_pods) for node in self.workflow.nodes]
        self.model.run_details = kfp_server_api.V2beta1RunDetails(task_details=nodes) if details else None
        return self.model


class State:
    """All that was made."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.documents: dict[str, str] = {}  # by version: the file, as it was uploaded
        self.experiments: dict[str, Any] = {}
        self.runs: dict[str, StoredRun] = {}
        self.recurring_runs: dict[str, Any] = {}
        self._clock = datetime.now(UTC).replace(microsecond=0)

    def now(self) -> datetime:
        """A time after all that were given before, so that orders by time are sure."""
        self._clock += timedelta(seconds=1)
        return self._clock

    def make_pipeline(self, asked: Any, namespace: str) -> Any:
        name = asked.name or asked.display_name
        if not name:
            raise invalid("pipeline's name cannot be empty")
        if any(each.name == name and each.namespace == namespace for each in self.pipelines.values()):
            raise Refused(409, 6, f"Already exist error: The name {name} already exist. Please specify a new name")
        asked.pipeline_id, asked.name, asked.namespace = str(uuid.uuid4()), name, namespace
        asked.display_name, asked.created_at = asked.display_name or name, self.now()
        self.pipelines[asked.pipeline_id] = asked
        return asked

    def make_version(self, pipeline_id: str, name: str, description: str, document: str) -> Any:
        self.pipeline(pipeline_id)
        if not name:
            raise invalid("pipeline version's name cannot be empty")
        if any(each.name == name and each.pipeline_id == pipeline_id for each in self.versions.values()):
            raise Refused(409, 6, f"Already exist error: The name {name} already exist. Please specify a new name")
        spec = read_spec(document)
        made = kfp_server_api.V2beta1PipelineVersion(
            pipeline_id=pipeline_id,
            pipeline_version_id=str(uuid.uuid4()),
            name=name,
            display_name=name,
            description=description,
            created_at=self.now(),
            pipeline_spec=spec,
        )
        self.versions[made.pipeline_version_id] = made
        self.documents[made.pipeline_version_id] = document
        return made

    def make_experiment(self, asked: Any, namespace: str) -> Any:
        if not asked.display_name:
            raise invalid("experiment's name cannot be empty")
        if any(e.display_name == asked.display_name and e.namespace == namespace for e in self.experiments.values()):
            raise Refused(409, 6, f"Already exist error: experiment {asked.display_name} already exist")
        asked.experiment_id, asked.namespace, asked.created_at = str(uuid.uuid4()), namespace, self.now()
        asked.storage_state = "AVAILABLE"
        self.experiments[asked.experiment_id] = asked
        return asked

    def make_run(self, asked: Any) -> StoredRun:
        if not asked.display_name:
            raise invalid("run's name cannot be empty")
        experiment = self.experiments.get(asked.experiment_id or "")
        if experiment is None:
            raise Refused(404, 5, f"ResourceNotFoundError: Experiment {asked.experiment_id} not found")
        reference = asked.pipeline_version_reference
        if reference is None or asked.pipeline_spec is not None:
            raise invalid("a run of a pipeline version was expected")
        version = self.version(reference.pipeline_id, reference.pipeline_version_id)
        spec = version.pipeline_spec
        config = asked.runtime_config or kfp_server_api.V2beta1RuntimeConfig()
        _check_parameters(spec, config.parameters or {})
        asked.run_id, asked.created_at, asked.finished_at = str(uuid.uuid4()), self.now(), _UNFINISHED
        asked.state, asked.storage_state = "PENDING", "AVAILABLE"
        made = StoredRun(asked, self.pipelines[version.pipeline_id].name, experiment.namespace, spec)
        self.runs[asked.run_id] = made
        return made

    def make_recurring_run(self, asked: Any) -> Any:
        reference, trigger = asked.pipeline_version_reference, asked.trigger
        version = self.version(reference.pipeline_id, reference.pipeline_version_id)
        _check_parameters(version.pipeline_spec, asked.runtime_config.parameters or {})
        if not 1 <= int(asked.max_concurrency) <= 10:
            raise invalid("Max concurrency of a recurring run must be at least 1 and at most 10")
        if not asked.display_name or not _CRON.fullmatch(trigger.cron_schedule.cron):
            raise invalid("Schedule cron is not a supported format")
        asked.recurring_run_id, asked.created_at, asked.status = str(uuid.uuid4()), self.now(), "ENABLED"
        self.recurring_runs[asked.recurring_run_id] = asked
        return asked

    def pipeline(self, pipeline_id: str) -> Any:
        return _found(self.pipelines, pipeline_id, "Pipeline")

    def version(self, pipeline_id: str, version_id: str) -> Any:
        version = _found(self.versions, version_id, "PipelineVersion")
        if version.pipeline_id != pipeline_id:
            raise Refused(404, 5, f"ResourceNotFoundError: PipelineVersion {version_id} not found")
        return version

    def run(self, run_id: str) -> StoredRun:
        return _found(self.runs, run_id, "Run")


def read_spec(document: str) -> dict[str, Any]:
    """The pipeline of an uploaded file, read as the server reads it."""
    try:
        first = next(iter(yaml.safe_load_all(document)), None)
        json_format.ParseDict(first, pipeline_spec_pb2.PipelineSpec())
    except (yaml.YAMLError, json_format.ParseError, TypeError, AttributeError) as error:
        raise invalid(f"unknown template format: pipeline spec is invalid: {error}") from error
    if not isinstance(first, dict) or "root" not in first or "pipelineInfo" not in first:
        raise invalid("unknown template format: pipeline spec is invalid")
    return first


def page(items: list[Any], query: dict[str, str], most: int) -> tuple[list[Any], str]:
    """A page of what was asked for, and the token of the next; a token is of one question alone."""
    size = min(int(query.get("page_size") or 20), most)
    question = {name: query.get(name, "") for name in ("filter", "sort_by", "namespace", "experiment_id")}
    start = 0
    if query.get("page_token"):
        try:
            known = json.loads(base64.b64decode(query["page_token"], validate=True))
        except ValueError as error:
            raise invalid("invalid package token") from error
        if known["question"] != question:
            raise invalid("the page token was of another question")
        start = known["start"]
    end = start + size
    token = json.dumps({"start": end, "question": question}).encode() if end < len(items) else b""
    return items[start:end], base64.b64encode(token).decode()


def matching(items: list[Any], text: str) -> list[Any]:
    """What a filter leaves."""
    if not text:
        return items
    try:
        predicates = json.loads(text)["predicates"]
        wanted = [(each["operation"], each["key"], each["stringValue"]) for each in predicates]
    except (ValueError, KeyError, TypeError) as error:
        raise invalid(f"failed to parse the filter {text}") from error
    if any(operation != "EQUALS" for operation, _, _ in wanted):
        raise invalid("this server knows EQUALS alone")
    return [each for each in items if all(getattr(each, key) == value for _, key, value in wanted)]


def _check_parameters(spec: dict[str, Any], given: dict[str, Any]) -> None:
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in given.items():
        if name not in known:
            raise invalid(f"parameter {name} is not defined in the pipeline spec")
        kind = known[name]["parameterType"]
        if not _TYPES[kind](value):
            raise invalid(f"parameter {name} is {value!r}, which is no {kind}")


def _found(items: dict[str, Any], key: str, what: str) -> Any:
    if key not in items:
        raise Refused(404, 5, f"ResourceNotFoundError: {what} {key} not found")
    return items[key]
