"""Settings: every one is declared once, in the configuration that it belongs to, and read from plain values here.

A configuration is a frozen model whose fields say what a value may be, its unit and what it means. ``leaves`` lists all
settings below a configuration by path (``sae.k``), with the name that the command line, components and dashboards call
them by. ``nested`` puts plain values where they belong, and ``validated`` builds the configuration, with every refusal
in one readable message. ``None`` means "not given": the default, or what a step chooses.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from numbers import Integral, Real
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mistudio.errors import ConfigError
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import shortened
from mistudio.redaction import secret_setting

Model = TypeVar("Model", bound=BaseModel)
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "settings as an object",
}
_AFTER = re.compile(r" after validation, not [\d,]+$")  # the value itself is told behind
MOST_SEED = (1 << 31) - 1  # what all that draw at random take, also with a little added
Place = Literal["dashboard", "command", "settings"]

# Where a setting is offered by a name of its own; without either mark it is set by path.
DASHBOARD: JsonDict = {"place": "dashboard"}  # in components and pipelines, and on the command line
COMMAND: JsonDict = {"place": "command"}  # on the command line alone
CONTEXT: JsonDict = {"place": "context"}  # filled in by the step from what it is given


def option_name(name: str, place: JsonDict = DASHBOARD) -> JsonDict:
    """A mark for a setting that people know by another name than its field's."""
    return {**place, "option": name}


class Settings(BaseModel):
    """Base of all configurations: frozen, and refusing what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Variants:
    """Noted beside the type of a field that holds one of several configurations.

    Attributes:
        field: the field that tells them apart.
        default: the variant that is taken where it is not given.
        text: what the variants are kinds of.
        known: the configurations by name.
    """

    field: str
    default: str
    text: str
    known: Callable[[], Mapping[str, type[BaseModel]]]


@dataclass(frozen=True)
class Leaf:
    """One setting.

    Attributes:
        path: where it is below the configuration, with dots.
        name: what the command line and components call it.
        kind: str, int, float, bool, or dict for a JSON object.
        many: several values, with commas between them.
        default: None where it is not given, or chosen.
        text: what it means, with its unit.
        nullable: whether None is a value of its own; it is what a dashboard says by -1 or an empty text.
        choices: the values that a text may have; empty: any.
        place: where it is offered by name.
        owners: the variants that have it; empty: all.
        decides: whether it names the variant.
    """

    path: str
    name: str
    kind: type
    many: bool
    default: Any
    text: str
    nullable: bool = False
    choices: tuple[str, ...] = ()
    place: Place = "settings"
    owners: tuple[str, ...] = ()
    decides: bool = False

    def shown(self) -> str:
        """What it means, for people who give plain values: -1 or an empty text in place of None."""
        text = f"{self.text[:1].upper()}{self.text[1:]}".rstrip(".")
        text = text.replace("; None: ", "; -1: " if self.kind in (int, float) else "; empty: ")
        notes = [] if all(choice in text for choice in self.choices) else [", ".join(self.choices)]
        notes += [", ".join(self.owners)] if self.owners else []
        head, semicolon, rest = text.partition(";")
        return f"{' '.join([head, *(f'({note})' for note in notes)])}{semicolon}{rest}."

    def plain(self, value: Any) -> Any:
        """A plain value as it is meant: -1 and an empty text are None where None is a value, or the default."""
        can_be_none = self.nullable or self.default is None
        return None if can_be_none and value in (-1, "") and not isinstance(value, bool) else value

    def checked(self, value: Any) -> Any:
        """A value from Python or JSON as a plain one of this kind, or several; None stays.

        Raises:
            ConfigError: it is of another kind.
        """
        if not self.many or value is None:
            return value if value is None else self._checked(value)
        if isinstance(value, str):
            return self.parse(value)
        if not isinstance(value, Sequence | Set):
            message = f"{self.name} takes several values, with commas between them or as a list, not {value!r:.60}."
            raise ConfigError(message)
        return [self._checked(each) for each in value]

    def _checked(self, value: Any) -> Any:
        """One value. A flag is no number, nor a text that reads like one; a number of NumPy's is one."""
        is_flag = isinstance(value, bool)
        if self.kind is bool and is_flag:
            return value
        if self.kind is float and isinstance(value, Real) and not is_flag:
            return float(value)
        if self.kind is int and isinstance(value, Integral) and not is_flag:
            return int(value)
        if self.kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.kind is str and isinstance(value, str | PathLike):
            return fspath(value)
        if self.kind is dict and isinstance(value, Mapping | str):
            return value
        message = f"{self.name} takes {_KINDS[self.kind]}, not {value!r:.60}."
        raise ConfigError(message)

    def parse(self, text: str) -> Any:
        """The value that a text on the command line stands for.

        Raises:
            ConfigError: it is no value of this kind.
        """
        if self.many:
            parts = text.replace(" ", "").split(",") if text.strip() else []
            return [parse_plain(self.name, part, self.kind) for part in parts] if self.kind in (int, float) else parts
        if text in ("", "null") and (self.nullable or self.default is None):
            return None
        return json_object(self.name, text, "{}") if self.kind is dict else parse_plain(self.name, text, self.kind)


def leaves(config: type[BaseModel], above: str = "") -> Iterator[Leaf]:
    """All settings below a configuration, in the order they are declared."""
    for name, field in config.model_fields.items():
        if _place(field) == "context":
            continue
        path = f"{above}{name}"
        inner = _configuration(field.annotation)
        variants = next((each for each in field.metadata if isinstance(each, Variants)), None)
        if variants is not None:
            yield from _joined(variants, path)
        elif inner is not None:
            yield from leaves(inner, f"{path}.")
        else:
            yield _leaf(path, field)


def variants_of(config: type[BaseModel], above: str = "") -> Iterator[tuple[str, str, type[BaseModel]]]:
    """The alternatives below a configuration: where the field is, and the name and class of each."""
    for name, field in config.model_fields.items():
        inner = _configuration(field.annotation)
        variants = next((each for each in field.metadata if isinstance(each, Variants)), None)
        if variants is not None:
            yield from ((f"{above}{name}", variant, each) for variant, each in variants.known().items())
        elif inner is not None:
            yield from variants_of(inner, f"{above}{name}.")


def assignments(settings: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each ``name=value``.

    Raises:
        ConfigError: one is none.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            message = f"--set takes name=value, not {shortened(setting)}."
            raise ConfigError(message)
        yield name, text


def parse_plain(name: str, text: str, kind: type) -> object:
    """The value of a plain type that a text on the command line stands for.

    Raises:
        ConfigError: it is no value of this type.
    """
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text.replace("_", "") if kind in (int, float) else text)
    except (KeyError, ValueError) as error:
        message = f"{name} takes a value of type {kind.__name__}, not {shortened(text)}."
        raise ConfigError(message) from error


def check_seed(seed: int, name: str = "seed") -> int:
    """Return a seed that everything random takes.

    Raises:
        ConfigError: it is below 0, or above 2,147,483,647.
    """
    if not 0 <= seed <= MOST_SEED:
        message = f"{name} {shortened(seed)} is out of range: give one from 0 to {MOST_SEED:,}."
        raise ConfigError(message)
    return seed


def find_leaf(known: Sequence[Leaf], name: str, source: str) -> Leaf:
    """The setting of this path or name; ``source`` is what named it.

    Raises:
        ConfigError: there is none, or there are several.
    """
    by_path = [leaf for leaf in known if leaf.path == name]
    found = by_path or [leaf for leaf in known if leaf.name == name]
    if not found:
        found = [leaf for leaf in known if leaf.path.rpartition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        paths = ", ".join(leaf.path for leaf in found)
        message = f"{source} names {shortened(name)}, which could be {paths}: use one of these."
    else:
        names = ", ".join(sorted({leaf.name for leaf in known}))
        message = f"{source} names {shortened(name)}, which is no setting; there are {names}."
    raise ConfigError(message)


def by_path(known: Sequence[Leaf], given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Plain values by name or path, each by its path; None is "not given" where it says nothing.

    A value may be an object of settings itself, such as ``{"judged": {"num_active": 5}}``.

    Raises:
        ConfigError: a name is unknown or could be several, or a setting is given twice.
    """
    values: dict[str, Any] = {}
    for name, value in _flat(known, given):
        leaf = find_leaf(known, name, source)
        if value is None and (leaf.default is None or not leaf.nullable):
            continue
        if leaf.path in values:
            both = f"{shortened(values[leaf.path])} and as {shortened(value)}"
            message = f"{leaf.name} is given twice, as {both}: give it once."
            raise ConfigError(message)
        values[leaf.path] = leaf.checked(value)
    return values


def nested(known: Sequence[Leaf], given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Plain values by name or path as the nested content of a configuration; see :func:`by_path`.

    Raises:
        ConfigError: a name is unknown or could be several, a setting is given twice, or its variant does not have it.
    """
    values = by_path(known, given, source)
    _check_variants(known, values)
    content: dict[str, Any] = {}
    for path, value in values.items():
        put(content, path, value)
    return content


def has(known: Sequence[Leaf], content: Mapping[str, Any], path: str) -> bool:
    """Whether the variant that ``content`` chooses has the setting at ``path``."""
    leaf = next((each for each in known if each.path == path), None)
    if leaf is None or not leaf.owners:
        return leaf is not None
    return _variant(known, leaf, lambda where: get(content, where)) in leaf.owners


def put(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a path of nested content."""
    *above, last = path.split(".")
    for part in above:
        content = content.setdefault(part, {})
    content[last] = value


def get(content: Mapping[str, Any], path: str) -> Any:
    """The value at a path of nested content; None where there is none."""
    value: Any = content
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def validated(model: type[Model], content: Mapping[str, object], names: Mapping[str, str] | None = None) -> Model:
    """Build a configuration; ``names`` has what people call the fields that they know by another name.

    Raises:
        ConfigError: a value is refused; the message names the parameter, the value and the reason.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise refused(error, names) from error


def refused(error: ValidationError, names: Mapping[str, str] | None = None) -> ConfigError:
    """What was refused, in words: the parameter, the value and the reason."""
    return ConfigError("; ".join(_reason(dict(problem), names or {}) for problem in problems_in(error)) + ".")


def problems_in(error: ValidationError) -> list[ErrorDetails]:
    """What was found wrong, in words without Python's types, and without what follows from the rest.

    A list of whose items one was refused is too short to pydantic too.
    """
    found = error.errors(include_url=False, include_context=False)
    spoilt = {each["loc"][:end] for each in found for end in range(len(each["loc"]))}
    return [
        cast(
            "ErrorDetails",
            {**each, "msg": _AFTER.sub("", each["msg"].replace("Tuple", "List").replace("tuple", "list"))},
        )
        for each in found
        if each["type"] != "too_short" or each["loc"] not in spoilt
    ]


def json_object(name: str, text: str, example: str) -> dict[str, Any]:
    """A parameter that was given as a JSON object; empty where nothing was.

    Raises:
        ConfigError: it is something else.
    """
    hint = f"Write an object, such as {example}."
    try:
        parsed = parse_json(text or "{}")
    except RefusedJSON as error:
        message = f"{name} is not JSON: {shortened(text)}: {error}. {hint}"
        raise ConfigError(message) from error
    if not isinstance(parsed, dict):
        message = f"{name} is not a JSON object: {shortened(text)}. {hint}"
        raise ConfigError(message)
    return parsed


def _leaf(path: str, field: FieldInfo) -> Leaf:
    kind, many, choices = _kind(field.annotation)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return Leaf(
        path=path,
        name=str(extra.get("option", path.rpartition(".")[2])),
        kind=kind,
        many=many,
        default=",".join(map(str, default)) if many and default is not None else default,
        text=field.description or "",
        nullable=NoneType in get_args(field.annotation),
        choices=choices,
        place=_place(field),
    )


def _place(field: FieldInfo) -> Any:
    """Where a setting is offered; one that the step fills in itself is not."""
    extra = field.json_schema_extra
    return extra.get("place", "settings") if isinstance(extra, dict) else "settings"


def _kind(annotation: Any) -> tuple[type, bool, tuple[str, ...]]:
    """The plain type of an annotation, whether it holds several values, and its choices."""
    annotation = _present(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return str, False, tuple(map(str, get_args(annotation)))
    if origin is tuple:
        kind, _, choices = _kind(get_args(annotation)[0])
        return kind, True, choices
    if origin is dict or annotation is dict:
        return dict, False, ()
    return (annotation if annotation in (int, float, bool) else str), False, ()


def _present(annotation: Any) -> Any:
    """An annotation without None and without what is noted beside it."""
    if get_origin(annotation) is Annotated:
        return _present(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        (annotation, *_) = [each for each in get_args(annotation) if each is not NoneType]
        return _present(annotation)
    return annotation


def _configuration(annotation: Any) -> type[BaseModel] | None:
    kind = _present(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _joined(variants: Variants, above: str) -> Iterator[Leaf]:
    """The settings of all variants, each once; one that not all have has no default."""
    by_name = {name: list(leaves(config, f"{above}.")) for name, config in variants.known().items()}
    found: dict[str, Leaf] = {}
    for variant, own in by_name.items():
        for leaf in own:
            before = found.get(leaf.path, replace(leaf, owners=()))
            choices = tuple(dict.fromkeys(before.choices + leaf.choices))
            default = leaf.default if before.default == leaf.default else None
            found[leaf.path] = replace(before, owners=(*before.owners, variant), choices=choices, default=default)
    for leaf in found.values():
        if leaf.path == f"{above}.{variants.field}":
            names = tuple(by_name)
            yield replace(
                leaf,
                default=variants.default,
                choices=names,
                owners=(),
                decides=True,
                text=variants.text,
                place="dashboard",
            )
        elif len(leaf.owners) == len(by_name):
            yield replace(leaf, owners=())
        else:
            says = "" if leaf.default is None else f"; None: {leaf.default}"
            yield replace(leaf, default=None, text=f"{leaf.text}{says}")


def _flat(known: Sequence[Leaf], given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and any(leaf.path.startswith(f"{path}.") for leaf in known):
            yield from _flat(known, value, f"{path}.")
        else:
            yield path, value


def _check_variants(known: Sequence[Leaf], values: Mapping[str, Any]) -> None:
    """Refuse what the chosen variant does not have."""
    for leaf in known:
        if leaf.path in values and leaf.owners:
            variant = _variant(known, leaf, values.get)
            if variant not in leaf.owners:
                has = [each.name for each in known if variant in each.owners and each.place == "dashboard"]
                value = values[leaf.path]
                shown = f"{value:g}" if isinstance(value, int | float) else repr(value)
                message = (
                    f"{variant} has no {leaf.name} (given: {shown}): leave it out. "
                    f"It has {', '.join(has) or 'settings of its own'}."
                )
                raise ConfigError(message)


def _variant(known: Sequence[Leaf], leaf: Leaf, value_at: Callable[[str], Any]) -> str:
    """The variant that was chosen of those that a setting is of.

    Raises:
        ConfigError: there is no such variant.
    """
    above = leaf.path.rpartition(".")[0]
    (deciding,) = (each for each in known if each.decides and each.path.rpartition(".")[0] == above)
    variant = str(value_at(deciding.path) or deciding.default)
    if variant not in deciding.choices:
        message = f"{deciding.name} {shortened(variant)} is unknown: use one of {', '.join(deciding.choices)}."
        raise ConfigError(message)
    return variant


def _reason(problem: dict[str, object], names: Mapping[str, str]) -> str:
    location = problem["loc"]
    parts = [str(part) for part in location if not isinstance(part, int)] if isinstance(location, tuple) else []
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return text  # our own validators name the field themselves
    text = text[:1].lower() + text[1:]
    name = names.get(".".join(parts), names.get(parts[-1], parts[-1])) if parts else "settings"
    if secret_setting({name: problem["input"]}) is not None:
        return f"{name}: {text}; secrets are never settings, they come from the environment"
    return f"{name}: {text}, not {shortened(problem['input'])}"
