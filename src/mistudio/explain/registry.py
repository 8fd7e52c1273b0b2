"""How explainers and scorers are found by name, made, and told apart in recipes.

Those built in stand in one table for each step: ``EXPLAINERS`` in ``explain.config``, ``SCORERS`` in ``score.config``.
Another package adds one by an entry point, in the group ``mistudio.explainers`` or ``mistudio.scorers``, that names
what makes it: a class or function, which may have the fields of :class:`Method` as attributes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, cast

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.settings import Settings

if TYPE_CHECKING:
    from mistudio.explain.judge import Judge
    from mistudio.explain.material import Material

Made = TypeVar("Made")


@dataclass(frozen=True)
class Method:
    """What makes an explainer or scorer, and what that which it says depends on.

    Attributes:
        factory: class or function, as ``module:name`` of those built in; called with ``judge``, ``seed`` and what other
            fields name, all by keyword.
        version: raised when its prompts change, or what it says means something else.
        takes: settings of the step that it is given: fields of the step's configuration, by their names.
        needs_judge: whether it asks a language model; ``judge`` is None where it does not.
        needs_subject: whether it runs the language model under study, which it loads from ``material``.
        config_class: of one of another package, what its own settings are checked by; it is given them as ``config``.
    """

    factory: str | Callable[..., Any]
    version: int = 1
    takes: tuple[str, ...] = ()
    needs_judge: bool = True
    needs_subject: bool = False
    config_class: type[BaseModel] | None = None

    @classmethod
    def declared_by(cls, factory: Callable[..., Any]) -> "Method":
        """The method that another package's factory makes, as its attributes say."""
        names = (field.name for field in fields(cls) if field.name != "factory")
        return cls(factory, **{name: getattr(factory, name) for name in names if hasattr(factory, name)})

    def load(self) -> Callable[..., Any]:
        """The factory, imported now."""
        if callable(self.factory):
            return self.factory
        module, _, attribute = self.factory.partition(":")
        return cast(Callable[..., Any], getattr(import_module(module), attribute))


def _each_once(names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        message = f"{info.field_name} names one twice: {shortened(', '.join(names))}"
        raise ValueError(message)
    return names


def _selection(only: str | None) -> str | None:
    """A selection of features as it is written, or None; its module reads tables, and is imported where there is one.

    Raises:
        ValueError: a term is malformed.
    """
    if only is None:
        return None
    from mistudio.features.selection import parse_selection

    try:
        return str(parse_selection(only))
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from error


Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]
Only = Annotated[str | None, AfterValidator(_selection)]
ONLY_TEXT = (
    "features to work on: numbers and ranges (12,40-90), best:50 (by score), densest:50, rarest:50, coherent:50, "
    "group:7, cluster:3, unlabelled; several with commas; None: all"
)


class MethodsConfig(Settings):
    """Settings of a step that asks methods by name."""

    plugins: dict[str, dict[str, Any]] = Field(
        default={}, description="settings of explainers or scorers of other packages, by name"
    )


class Registry(Generic[Made]):
    """The methods of one step: those of its table, and those of other packages.

    Args:
        what: explainer or scorer, for messages.
        group: entry points that other packages use.
        built_in: those of the library, by name.
    """

    def __init__(self, what: str, group: str, built_in: Mapping[str, Method]) -> None:
        self.what, self.group, self.built_in = what, group, dict(built_in)

    def names(self) -> list[str]:
        """What can be asked for."""
        others = {entry.name for entry in entry_points(group=self.group)}
        return [*self.built_in, *sorted(others - self.built_in.keys())]

    def find(self, name: str) -> Method:
        """The method of this name; what another package registered is imported.

        Raises:
            ConfigError: there is none of that name.
        """
        if name in self.built_in:
            return self.built_in[name]
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return Method.declared_by(entry.load())
        message = f"There is no {self.what} {shortened(name)}: use {', '.join(self.names())}."
        raise ConfigError(message)

    def need_judge(self, names: Iterable[str]) -> bool:
        """Whether any of them asks a language model."""
        return any(self.find(name).needs_judge for name in names)

    def need_subject(self, names: Iterable[str]) -> bool:
        """Whether any of them runs the language model under study."""
        return any(self.find(name).needs_subject for name in names)

    def check(self, names: Iterable[str], config: MethodsConfig, *, has_judge: bool) -> None:
        """Refuse what cannot be made, before anything is read.

        Raises:
            ConfigError: one is unknown, asks a language model and none is given, or has settings that it refuses.
        """
        asked = list(names)
        for name in asked:
            method = self.find(name)
            if method.needs_judge and not has_judge:
                _refuse_without_judge(f"The {self.what} {name}")
            self._own_settings(name, method, config)
            if unknown := sorted(set(method.takes) - type(config).model_fields.keys()):
                message = f"The {self.what} {name} takes {', '.join(unknown)}, which {type(config).__name__} lacks."
                raise ConfigError(message)
        if others := sorted(config.plugins.keys() - set(asked)):
            message = f"plugins has settings of {', '.join(others)}: ask for it too, or leave them out."
            raise ConfigError(message)

    def recipe(self, names: Iterable[str], config: MethodsConfig, always: Iterable[str]) -> dict[str, Any]:
        """What the given methods depend on: their versions, and of the configuration what they take.

        Args:
            names: the methods asked for.
            config: all settings.
            always: fields of ``config`` that the step itself reads for them.
        """
        methods = {name: self.find(name) for name in names}
        taken = set(always).union(*(method.takes for method in methods.values()))
        own = {name: self._own_settings(name, method, config) for name, method in methods.items()}
        return {
            **config.model_dump(mode="json", include=taken),
            "versions": {name: method.version for name, method in methods.items()},
            "plugins": {name: each.model_dump(mode="json") for name, each in own.items() if each is not None},
        }

    def new(
        self, name: str, config: MethodsConfig, judge: "Judge | None", seed: int, material: "Material | None" = None
    ) -> Made:
        """The explainer or scorer of this name; ``material`` is for those that run the language model under study.

        Raises:
            ConfigError: there is none of that name, it asks a judge and none is given, or refuses its settings.
        """
        method = self.find(name)
        if method.needs_judge and judge is None:
            _refuse_without_judge(f"The {self.what} {name}")
        given: dict[str, Any] = {each: getattr(config, each) for each in method.takes}
        if method.needs_subject:
            given["material"] = material
        if method.config_class is not None:
            given["config"] = self._own_settings(name, method, config)
        return cast(Made, method.load()(judge=judge if method.needs_judge else None, seed=seed, **given))

    def _own_settings(self, name: str, method: Method, config: MethodsConfig) -> BaseModel | None:
        """The checked settings of another package's method; None where it has none."""
        given = config.plugins.get(name, {})
        if method.config_class is None:
            if given:
                message = (
                    f"The {self.what} {name} has no settings of its own under plugins: leave out {', '.join(given)}."
                )
                raise ConfigError(message)
            return None
        try:
            return method.config_class.model_validate(given)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            message = f"The {self.what} {name} refuses its settings under plugins: {faults}."
            raise ConfigError(message) from error


def _refuse_without_judge(wanted_by: str) -> None:
    from mistudio.explain.llm_open import open_judge

    open_judge(None, wanted_by)
