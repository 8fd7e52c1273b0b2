"""What a step is: one declaration, which the command line, the components and the checks before a run read.

A :class:`Step` names its configuration, what it reads and what it publishes. Everything that can be set is listed by
``options``: settings of the configuration (declared there, see :mod:`mistudio.settings`), and what every step that
loads a model, asks a language model or draws at random has in common, declared once here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from mistudio.artifacts import Artifact, Store
from mistudio.settings import Leaf, Place, Settings, leaves

if TYPE_CHECKING:
    from mistudio.explain.keeping import Base
    from mistudio.steps.context import Context
    from mistudio.tracking import Run

NO_ARTIFACT = "none"  # in place of an optional one: also none that would be chosen
Uses = Literal["tokenizer", "live", "model", "judge", "device", "seed"]
_LOADING = "mistudio.subject.config:SubjectConfig"
_NAME = (
    "Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or subject/... in the "
    "store"
)


@dataclass(frozen=True)
class Inputs:
    """The artifacts that a step was given, by the names of its declaration."""

    found: Mapping[str, tuple[Artifact, ...]]
    declined: frozenset[str] = frozenset()  # those that are to be none, also where one would be chosen

    def one(self, name: str) -> Artifact:
        """The artifact of an input that has to be given."""
        (artifact,) = self.found[name]
        return artifact

    def maybe(self, name: str) -> Artifact | None:
        """The artifact of an optional input."""
        return next(iter(self.found[name]), None)

    def many(self, name: str) -> tuple[Artifact, ...]:
        """The artifacts of an input that takes several."""
        return self.found[name]


@dataclass(frozen=True)
class Input:
    """An artifact that a step reads.

    Attributes:
        name: of the input.
        kind: of the artifact.
        text: what it is.
        many: one or more, with commas between them.
        optional: it need not be given.
        newest_of: the input that it is made from: the command line takes the one that ``newest`` gives where it is not
            given.
        newest: from the store and that other input.
    """

    name: str
    kind: str
    text: str
    many: bool = False
    optional: bool = False
    newest_of: str = ""
    newest: "Callable[[Store, Artifact], Artifact | None] | None" = None


@dataclass(frozen=True)
class Choice:
    """What a step does with a setting that is not given, or that only its inputs can check.

    Attributes:
        says: what is chosen, in words.
        value: from the context, the inputs and the value given (or None), the value to use.
        stand_in: a value that checks before a run may assume; None: there is nothing to assume.
        default: what is shown as the default, where that is a plain value.
        complete_given: turns a value given into one that can be checked, where it lacks what the inputs tell.
    """

    says: str
    value: "Callable[[Context, Inputs, Mapping[str, Any], Any], Any]"
    stand_in: Any
    default: Any = None
    complete_given: Callable[[Any], Any] = lambda given: given

    def complete(self, given: Any) -> Any:
        """What checks before a run assume where this was given."""
        return self.stand_in if given is None else self.complete_given(given)


@dataclass(frozen=True)
class Page:
    """A published file that Kubeflow's dashboard shows."""

    name: str
    kind: Literal["HTML", "Markdown"]
    file: str
    text: str


@dataclass(frozen=True)
class Output:
    """What a step publishes (``many``: several, so that it is no component), and what of it dashboards show."""

    name: str
    kind: str
    text: str
    metrics: bool = False
    many: bool = False
    pages: tuple[Page, ...] = ()


@dataclass(frozen=True)
class Argument:
    """A plain value beside the configuration: it says where something is, or which part of the work to do."""

    name: str
    kind: type
    text: str
    default: Any = None
    required: bool = False
    place: Place = "dashboard"


@dataclass(frozen=True)
class Step:
    """A step, declared once.

    Attributes:
        name: the same in the library, the command, the component and the MLflow run.
        summary: one line.
        title: what Kubeflow's dashboard calls it; empty: its name.
        run: does the work: from the context, the inputs and the configuration to what was published.
        config: "module:Class" of its configuration; empty: it has none.
        runtime: "module:Class" of what changes how it runs but not what it ends with.
        settings_of: the step whose settings it takes; empty: its own.
        inputs: the artifacts that it reads.
        output: what it publishes; None: it is a step of pipelines alone.
        returns: the type of the plain value that it returns then; empty: none.
        returned: what that value is.
        takes_pod: its component hands on what its pod is given, to pods that it starts.
        is_command: it is on the command line too, which prints that value.
        arguments: plain values beside the configuration.
        uses: what else it needs, which brings the options for it.
        shared: several processes can do it together (see :mod:`mistudio.sae.workers`).
        choices: settings that it chooses or checks by its inputs, by path.
        check: refuses what the configuration alone cannot, before anything runs.
        plot: draws what it published, for MLflow.
        newest_base: of one that works on a selection, finds what to add to; it takes that as its input ``base``.
        about: what tells one run of it from another, in words.
    """

    name: str
    summary: str
    run: "Callable[[Context, Inputs, Any], Any]"
    title: str = ""
    config: str = ""
    runtime: str = ""
    settings_of: str = ""
    inputs: tuple[Input, ...] = ()
    output: Output | None = None
    returns: str = ""
    returned: str = ""
    takes_pod: bool = False
    is_command: bool = False
    arguments: tuple[Argument, ...] = ()
    uses: frozenset[Uses] = frozenset()
    shared: bool = False
    choices: Mapping[str, Choice] = field(default_factory=dict)
    check: "Callable[[Asked, Mapping[str, Asked]], None] | None" = None
    plot: "Callable[[Artifact, Run], None] | None" = None
    newest_base: "Callable[[Context, Inputs, Any], Base | None] | None" = None
    about: Callable[[Mapping[str, Any]], str] = lambda _given: ""

    @cached_property
    def config_class(self) -> type[Settings] | None:
        """The class of its configuration."""
        return _load(self.config)

    @cached_property
    def runtime_class(self) -> type[Settings] | None:
        """The class of what changes how it runs."""
        return _load(self.runtime)

    @cached_property
    def settings(self) -> tuple[Leaf, ...]:
        """All settings of its configuration; one that is chosen has no default."""
        found = leaves(self.config_class) if self.config_class else iter(())
        return tuple(_chosen(leaf, self.choices.get(leaf.path)) for leaf in found)

    @cached_property
    def runtime_settings(self) -> tuple[Leaf, ...]:
        """All settings of how it runs."""
        return tuple(leaves(self.runtime_class)) if self.runtime_class else ()

    @cached_property
    def loading(self) -> tuple[Leaf, ...]:
        """The settings of how it loads the model; not given, the model is loaded as it was captured."""
        known = leaves(_load(_LOADING) or Settings)
        if self.uses & {"model", "live"}:
            return tuple(self._placed(leaf) for leaf in known)
        return tuple(self._placed(leaf) for leaf in known if leaf.name in self._loading_named)

    @property
    def has_others(self) -> bool:
        """Whether it has settings that are not offered by a name of their own."""
        return any(leaf.place == "settings" for leaf in (*self.settings, *self.runtime_settings))

    @property
    def command(self) -> str:
        """Its name on the command line and in MLflow."""
        return self.name.replace("_", "-")

    @property
    def json_option(self) -> str:
        """The option that takes settings as a JSON object."""
        return f"{self.settings_of or self.name}_settings"

    @cached_property
    def options(self) -> tuple[Leaf, ...]:
        """Everything that can be given by name, but the inputs; those for the dashboard first."""
        return tuple(leaf for leaf in self._options() if leaf.place in ("dashboard", "command"))

    def _options(self) -> Iterator[Leaf]:
        yield from (_leaf(each.name, each.kind, each.text, each.default, each.place) for each in self.arguments)
        if self.uses & {"model", "live", "tokenizer"}:
            yield self._model()
        yield from self.settings
        if self.has_others:
            yield _leaf(
                self.json_option, dict, f"Other settings as JSON; mistudio {self.command} --parameters lists them."
            )
        yield from self.runtime_settings
        if "judge" in self.uses:
            yield from _JUDGE
        yield from self.loading
        if self.uses & {"model", "live"}:
            yield _leaf("model_settings", dict, _MODEL_SETTINGS)
        if self.uses & {"model", "tokenizer"}:
            yield _leaf("revision", str, "Branch, tag or commit on the model hub.", place="command")
        if "seed" in self.uses:
            yield _leaf("seed", int, "Seed of everything random.", 0)
        if self.inputs or self.output:
            yield STORE

    def _model(self) -> Leaf:
        """The option that names the model: where the inputs say which it was, that is the default."""
        names = {each.name for each in self.inputs}
        if names & set(_FROM_CAPTURE):
            return _leaf("model", str, f"{_NAME}; None: where the capture says.", None)
        if "corpus" in names:
            return _leaf("model", str, f"{_NAME}; None: the one that the corpus was tokenised for.", None)
        return _leaf("model", str, f"{_NAME}.", "demo")

    @property
    def _loading_named(self) -> set[str]:
        """The settings of loading the model that the step offers by name."""
        return {name for use in self.uses for name in _LOADING_NAMED.get(use, ())}

    def _placed(self, leaf: Leaf) -> Leaf:
        """A setting of loading the model, offered by name where the step can use it."""
        place: Place = leaf.place if leaf.name in self._loading_named else "settings"
        captured = any(each.name in _FROM_CAPTURE for each in self.inputs)
        default, text = leaf.default, leaf.text
        if captured and leaf.name in ("dtype", "quantization"):
            default, text = None, f"{text}; None: as captured"
        return _replace(leaf, place=place, default=default, text=text)


@dataclass(frozen=True)
class Asked:
    """What a step was asked for, as far as it can be told before its inputs are there.

    Attributes:
        config: its configuration, with stand-ins for what it will choose.
        given: arguments, and what steps have in common.
        content: what was given of the configuration.
        loading: what was given of how the model is loaded.
    """

    config: Any
    given: Mapping[str, Any]
    content: Mapping[str, Any]
    loading: Mapping[str, Any]


_LOADING_NAMED: Mapping[Uses, set[str]] = {
    "tokenizer": {"trust_remote_code"},
    "live": {"device"},
    "device": {"device"},
    "model": {"dtype", "quantization", "device", "trust_remote_code"},
}
# Inputs behind which is a capture, which says what model it was and how it was loaded.
_FROM_CAPTURE = frozenset({"activations", "sae", "features", "explanations"})
_MODEL_SETTINGS = 'Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.'
_ENDPOINT = "Address of an OpenAI-compatible endpoint, up to and with /v1; programs need none."
_JUDGE_MODEL = "Name of the language model there; without judge_url a folder or hub id of one to load here."


def _leaf(name: str, kind: type, text: str, default: Any = None, place: Place = "dashboard") -> Leaf:
    return Leaf(name, name, kind, many=False, default=default, text=text, nullable=default is None, place=place)


STORE = _leaf(
    "store", str, "Store: a folder, or s3://bucket/prefix; None: MISTUDIO_STORE, else the user's data folder."
)
_JUDGE = (
    _leaf("judge_url", str, _ENDPOINT),
    _leaf("judge_model", str, _JUDGE_MODEL),
    _leaf("judge_tokens", int, "Most tokens, read and written, to pay for; None: no limit."),
    _leaf("judge_settings", dict, 'Other settings of it as JSON, such as {"temperature": null, "concurrency": 32}.'),
)


def _replace(leaf: Leaf, **changed: Any) -> Leaf:
    return Leaf(**{**leaf.__dict__, **changed})


def _chosen(leaf: Leaf, choice: Choice | None) -> Leaf:
    if choice is None:
        return leaf
    before = "; None: " if choice.default is None else ": "
    return _replace(
        leaf, default=choice.default, text=f"{leaf.text}{before}{choice.says}" if choice.says else leaf.text
    )


def _load(place: str) -> "type[Settings] | None":
    if not place:
        return None
    module, _, name = place.partition(":")
    found: type[Settings] = getattr(import_module(module), name)
    return found
