"""What is served, in words for programs: GET /describe."""

from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, Field

from mistudio.artifacts import references
from mistudio.instrument.edits import Edits, Unit
from mistudio.steer.bounds import SteerLimits
from mistudio.steer.requests import MAX_TOP_LOGPROBS, GenerationRequest

if TYPE_CHECKING:
    from mistudio.instrument.served import Served
    from mistudio.steer.service import SteerService


class SubjectDescription(BaseModel):
    """The language model."""

    name: str
    uri: str | None
    digest: str | None
    hook_points: list[str] = Field(description="where directions may be added")
    vocabulary: int
    takes_chats: bool


class AutoencoderDescription(BaseModel):
    """An autoencoder whose features edits can name."""

    name: str
    uri: str
    digest: str
    architecture: str
    hook_points: list[str] = Field(description="where it reads, and where it writes if that is elsewhere")
    width: int = Field(description="features, numbered from 0")
    has_maxima: bool = Field(description="whether the unit feature_max is known")
    explained: bool = Field(description="whether features have descriptions")


class Limits(BaseModel):
    """The most that a request may ask for."""

    answers_at_once: int
    requests_that_wait: int
    tokens: int = Field(description="of a prompt and its answer")
    default_tokens: int = Field(description="generated where a request does not say")
    top_logprobs: int
    stop_texts: int


class Description(BaseModel):
    """All that is served."""

    subject: SubjectDescription
    autoencoders: list[AutoencoderDescription]
    ops: dict[str, list[str]] = Field(description="what an edit can do, and the fields of each")
    units: list[str]
    presets: list[str] = Field(description="that the store has now")
    directions: list[str] = Field(description="that the store has now, by name")
    limits: Limits
    allowed: SteerLimits = Field(description="how strong edits may be, how many, and of which features")
    is_logged: bool = Field(description="whether every request that changes the model is written down")


def describe(served: "Served", service: "SteerService", *, is_logged: bool) -> Description:
    """What a service answers requests for; before the engine has the model, for its hook points are tried out."""
    return Description(
        **names_in_store(served),
        subject=_subject(served, service),
        autoencoders=[
            AutoencoderDescription(
                name=known.name,
                uri=placed.uri,
                digest=placed.digest,
                architecture=placed.sae.config.architecture,
                hook_points=placed.ends.hooks,
                width=placed.sae.width,
                has_maxima=known.features is not None,
                explained=known.line.explanations is not None,
            )
            for known, placed in zip(served.features, served.session.autoencoders, strict=True)
        ],
        ops=_ops(),
        units=list(get_args(Unit)),
        allowed=service.config.limits,
        is_logged=is_logged,
        limits=_limits(service),
    )


def names_in_store(served: "Served") -> dict[str, list[str]]:
    """Presets and directions, which may be saved while the model is served."""
    return {
        f"{kind}s": sorted(each.name for each in references(served.store, kind)) for kind in ("preset", "direction")
    }


def _subject(served: "Served", service: "SteerService") -> SubjectDescription:
    from mistudio.subject.hooks import available_points

    subject, source = served.session.subject, served.session.source
    return SubjectDescription(
        name=service.name,
        uri=None if source is None else source.uri,
        digest=None if source is None else source.digest,
        hook_points=[str(point) for layer in range(subject.num_layers) for point in available_points(subject, layer)],
        vocabulary=subject.vocab_size,
        takes_chats=service.reader.takes_chats,
    )


def _ops() -> dict[str, list[str]]:
    edit: Any = get_args(Edits.model_fields["edits"].annotation)[0]
    kinds = get_args(get_args(edit)[0])
    return {kind.model_fields["op"].default: [name for name in kind.model_fields if name != "op"] for kind in kinds}


def _limits(service: "SteerService") -> Limits:
    stops = GenerationRequest.model_fields["stop"].metadata
    config = service.config
    return Limits(
        answers_at_once=config.rows,
        requests_that_wait=config.queue,
        tokens=service.max_tokens,
        default_tokens=config.default_tokens,
        top_logprobs=MAX_TOP_LOGPROBS,
        stop_texts=next(int(each.max_length) for each in stops if hasattr(each, "max_length")),
    )
