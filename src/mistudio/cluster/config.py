"""Settings of what is asked of a cluster."""

import re
from typing import NamedTuple

from pydantic import Field, field_validator

from mistudio.plain_text import shortened
from mistudio.settings import COMMAND, DASHBOARD, Settings

_DNS_NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_MOST_NAME = 40  # that leaves room for what KServe adds in the names of Deployments and Services
_MOST_NAMESPACE = 63


class Place(NamedTuple):
    """Where an object of a cluster is."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class DeployConfig(Settings):
    """How an autoencoder is brought to a KServe predictor, and what it has to show there."""

    deploy_to: str | None = Field(
        None,
        description="InferenceService to serve it by, as NAMESPACE/NAME; None: nothing is deployed",
        json_schema_extra=DASHBOARD,
    )
    canary_percent: int = Field(
        100,
        ge=0,
        le=100,
        description="share of the traffic that it gets beside what is served now; 0: it is started and gets none, 100: "
        "it takes the place of what is served now",
        json_schema_extra=DASHBOARD,
    )
    serving_runtime: str = Field(
        "mistudio-steer",
        pattern=rf"^{_DNS_NAME}$",
        description="ServingRuntime that runs the predictor, whose model format has the same name",
        json_schema_extra=COMMAND,
    )
    ready_timeout_s: float = Field(
        900.0, gt=0, le=86_400, description="seconds for the predictor to be ready", json_schema_extra=COMMAND
    )
    watch_s: float = Field(
        60.0, ge=0, le=86_400, description="seconds for which the rate of errors is watched", json_schema_extra=COMMAND
    )
    check_every_s: float = Field(
        5.0, gt=0, le=600, description="seconds between two looks at the cluster, or the predictor"
    )
    max_error_rate: float = Field(
        0.01,
        ge=0,
        le=1,
        description="largest share of requests that may fail while it is watched",
        json_schema_extra=COMMAND,
    )
    request_timeout_s: float = Field(60.0, gt=0, le=3600, description="seconds for a request to the predictor")
    smoke_prompt: str = Field("Once upon a time", min_length=1, description="text that the requests go on with")
    smoke_tokens: int = Field(8, ge=1, le=1024, description="tokens of each of their answers")
    smoke_feature: int = Field(0, ge=0, description="feature that they add, once with and once without an edit")
    service_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="where the predictor is asked; None: where the InferenceService says",
        json_schema_extra=COMMAND,
    )
    context: str | None = Field(
        None,
        description="context of the kubeconfig; None: the pod's service account, else the current context",
        json_schema_extra=COMMAND,
    )

    @field_validator("deploy_to")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None:
            place_of(value)
        return value

    @property
    def place(self) -> Place | None:
        """Where it is deployed to."""
        return None if self.deploy_to is None else place_of(self.deploy_to)


def place_of(text: str) -> Place:
    """The namespace and name that a text gives.

    Raises:
        ValueError: it gives none that the cluster would take.
    """
    namespace, _, name = text.partition("/")
    for what, each, most in (("namespace", namespace, _MOST_NAMESPACE), ("name", name, _MOST_NAME)):
        if not re.fullmatch(_DNS_NAME, each) or len(each) > most:
            message = (
                f"deploy_to {shortened(text)} has no {what} of lower-case letters, digits and dashes, at most {most}: "
                "give NAMESPACE/NAME, such as mistudio-services/steer"
            )
            raise ValueError(message)
    return Place(namespace, name)
