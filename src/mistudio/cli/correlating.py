"""``mistudio correlate``: from a text, a concept, a token, a feature, examples or a vector to features."""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.look_up_tables import show
from mistudio.cli.options import StoreOption, number, user_name, with_parameters
from mistudio.errors import ConfigError, InputError
from mistudio.guarded_json import MAX_FILE_BYTES, RefusedJSON, parse_json
from mistudio.paths import given_path
from mistudio.plain_text import shortened
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.correlate.queries import Query
    from mistudio.correlate.replies import Reply

_HELP = "Look features up. Each look-up loads the newest model and autoencoder of the store; mistudio serve keeps them."
_TEXT_HELP = """The features that are active on a text or a chat.

Examples:

    mistudio correlate text "def add(a, b): return a + b"

    mistudio correlate text "Once upon a time" --pool standardised --strongest 3

    mistudio correlate text --messages chat.json --roles assistant --json
"""
_CONCEPT_HELP = """The features whose explanations go with a concept.

Examples:

    mistudio correlate concept "numbers in a list"

    mistudio correlate concept "regret" --embed-with models/all-minilm --top 20
"""
_WORD_HELP = """The features that write a token, or are active on it.

A token is an id, or a text that is one token; the space before a word belongs to its token.

Examples:

    mistudio correlate token " return"

    mistudio correlate token 1503 --ways lens,lift --suppressed
"""
_FEATURE_HELP = """The features that are like a feature.

Those that point as it does, fire with it, or are said to be like it.

Examples:

    mistudio correlate feature 12

    mistudio correlate feature 12 --relations decoder,pmi --top 5
"""
_EXAMPLES_HELP = """The features that tell examples apart.

Positive ones from negative ones, and the direction between them.

Files are JSON Lines: a text or an object with text or messages a line; with --examples also with a label.

Examples:

    mistudio correlate examples --positive polite.jsonl --negative rude.jsonl

    mistudio correlate examples --examples labelled.jsonl --save-as politeness
"""
_VECTOR_HELP = """The features that point as a vector does.

Examples:

    mistudio correlate vector --direction politeness

    mistudio correlate vector --file vector.json --sides decoder,encoder
"""

_EMBED_WITH = "embed_with"

LineOption = Annotated[
    list[str] | None, typer.Option(help="What to load: scores, explanations, features or sae/...; the newest.")
]
ModelOption = Annotated[str, typer.Option(help="The language model, where it is not found as the capture says.")]
AutoencoderOption = Annotated[
    str, typer.Option(help="Whose features: name, URI or hook point. [default: the first that is loaded]")
]
TopOption = Annotated[int, typer.Option(help="Features to show, of each measure.", **number("top", int))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON.")]
EmbedOption = Annotated[
    str,
    typer.Option(
        help="What makes vectors of texts: subject, subject:LAYER, the folder of a sentence-transformers model, or "
        "ADDRESS#MODEL of an endpoint. [default: concepts are searched by words]"
    ),
]
RolesOption = Annotated[str, typer.Option(help="Of chats: whose messages count, with commas. [default: all]")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    correlate = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
    for command, text_ in (
        (text, _TEXT_HELP),
        (concept, _CONCEPT_HELP),
        (token, _WORD_HELP),
        (feature, _FEATURE_HELP),
        (examples, _EXAMPLES_HELP),
        (vector, _VECTOR_HELP),
    ):
        correlate.command(command.__name__, help=text_)(_look_up(command))
    app.add_typer(correlate, name="correlate")


def text(
    content: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text.")] = None,
    messages: Annotated[str, typer.Option(help="JSON file with the messages of a chat, in place of a text.")] = "",
    roles: RolesOption = "",
    pool: Annotated[
        str, typer.Option(help="What features are ordered by: max, mean, difference or standardised.")
    ] = "max",
    strongest: Annotated[
        int, typer.Option(help="Strongest features of each token to show.", **number("strongest", int))
    ] = 0,
    by_token: Annotated[bool, typer.Option("--by-token", help="In JSON: each hit's activation by token.")] = False,
) -> dict[str, Any]:
    """A text as a query."""
    return {
        "text": content,
        "messages": _json_in(messages, "messages") if messages else None,
        "roles": _names(roles),
        "pool": pool,
        "strongest": strongest,
        "by_token": by_token,
    }


def concept(
    words: Annotated[str, typer.Argument(metavar="CONCEPT", help="What is looked for, in words.")],
    embed_with: EmbedOption = "",
    how: Annotated[
        str, typer.Option(help="By the words (lexical), their meaning (embedding) or both. [default: all there is]")
    ] = "",
) -> dict[str, Any]:
    """A concept as a query."""
    return {"concept": words, "how": how or None, _EMBED_WITH: embed_with}


def token(
    id_or_text: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, or a text that is one token.")],
    as_text: Annotated[bool, typer.Option("--text", help="Digits are a text, and no id.")] = False,
    ways: Annotated[str, typer.Option(help="Of lens, contexts, lift, with commas. [default: all there are]")] = "",
    suppressed: Annotated[bool, typer.Option("--suppressed", help="Lens: features that make it less likely.")] = False,
) -> dict[str, Any]:
    """A token as a query."""
    is_id = re.fullmatch("[0-9]{1,18}", id_or_text) is not None and not as_text
    return {"token": int(id_or_text) if is_id else id_or_text, "ways": _names(ways), "suppressed": suppressed}


def feature(
    latent: Annotated[int, typer.Argument(help="Its number.", **(number("feature", int) | {"metavar": "FEATURE"}))],
    relations: Annotated[
        str,
        typer.Option(help="Of decoder, correlation, pmi, jaccard, explanation, with commas. [default: all there are]"),
    ] = "",
    embed_with: EmbedOption = "",
) -> dict[str, Any]:
    """A feature as a query."""
    return {"feature": latent, "relations": _names(relations), _EMBED_WITH: embed_with}


def examples(
    positive: Annotated[str, typer.Option(help="JSON Lines file with the positive examples.")] = "",
    negative: Annotated[str, typer.Option(help="JSON Lines file with the negative examples.")] = "",
    labelled: Annotated[
        str, typer.Option("--examples", help="JSON Lines file with both and their labels, in place of two files.")
    ] = "",
    positive_label: Annotated[str, typer.Option(help="Label of the positive ones. [default: 1, true, yes, …]")] = "",
    negative_label: Annotated[str, typer.Option(help="Label of the negative ones. [default: all others]")] = "",
    roles: RolesOption = "",
    pool: Annotated[str, typer.Option(help="How a feature's activations become one: max or mean.")] = "max",
    side: Annotated[
        str, typer.Option(help="Features stronger on positive or negative examples, or both.")
    ] = "positive",
    method: Annotated[str, typer.Option(help="Of the direction: mean_difference or logistic.")] = "mean_difference",
    save_as: Annotated[str, typer.Option(help="Name to keep the direction under. [default: it is not kept]")] = "",
    author: Annotated[str, typer.Option(help="Who says so. [default: you]")] = "",
    seed: Annotated[int, typer.Option(help="Of halves, resamples, controls.", **number("seed", int))] = 0,
) -> dict[str, Any]:
    """Examples as a query."""
    return {
        **_examples(positive, negative, labelled, (positive_label or None, negative_label or None), seed),
        "roles": _names(roles),
        "pool": pool,
        "side": side,
        "method": method,
        "save_as": save_as or None,
        "author": (author or user_name()) if save_as else None,
        "seed": seed,
    }


def vector(
    file: Annotated[str, typer.Option(help="JSON file with the list of its components.")] = "",
    direction: Annotated[str, typer.Option(help="Name of a saved direction, or direction/....")] = "",
    sides: Annotated[str, typer.Option(help="Rows to compare with: decoder, encoder, with commas.")] = "decoder",
    opposite: Annotated[bool, typer.Option("--opposite", help="Features that point the other way.")] = False,
) -> dict[str, Any]:
    """A vector as a query."""
    return {
        "vector": _json_in(file, "vector") if file else None,
        "direction": direction or None,
        "sides": _names(sides),
        "opposite": opposite,
    }


def _look_up(query_of: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """A command that takes what makes the query, and what all look-ups take: it checks, loads, asks and prints."""
    own = list(inspect.signature(query_of).parameters.values())
    common = list(inspect.signature(_answer).parameters.values())[2:]

    def command(**values: Any) -> None:
        given = query_of(**{each.name: values.pop(each.name) for each in own})
        _answer(query_of.__name__, given, **values)

    return with_parameters(command, [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *common)])


def _answer(
    look_up: str,
    given: Mapping[str, Any],
    top: TopOption = 10,
    autoencoder: AutoencoderOption = "",
    line: LineOption = None,
    model: ModelOption = "",
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """Check the query, load, ask, print."""
    from mistudio.correlate.queries import QUERIES
    from mistudio.settings import validated

    asked = {name: value for name, value in given.items() if name != _EMBED_WITH}
    query = validated(QUERIES[look_up], {**asked, "top": top, "autoencoder": autoencoder or None})
    writes = asked.get("save_as") is not None
    reply = _ask(query, line, model, store, given.get(_EMBED_WITH, ""), writes=writes)
    if as_json:
        echo(reply.model_dump_json(indent=2, exclude_none=True))
    else:
        show(reply)


def _ask(query: "Query", line: list[str] | None, model: str, store: str, embed_with: str, *, writes: bool) -> "Reply":
    from mistudio.artifacts import default_store_url, open_store, open_to_read
    from mistudio.correlate.concepts.embedding import open_embedder
    from mistudio.correlate.correlator import Correlator
    from mistudio.instrument.served import open_served
    from mistudio.subject import resolve_source

    opened = open_store(store) if writes else open_to_read(store or default_store_url())
    source = resolve_source(model) if model else None
    with open_served(opened, line or (), source) as served, open_embedder(embed_with, served) as embedder:
        return Correlator(served, embedder=embedder).ask(query)


def _examples(
    positive: str, negative: str, labelled: str, labels: tuple[str | None, str | None], seed: int
) -> dict[str, Any]:
    """The examples of files, as a query has them."""
    from mistudio.correlate.queries import MAX_EXAMPLES
    from mistudio.directions.example_files import Files
    from mistudio.directions.examples import read_examples

    files = Files.read(labelled, positive, negative)
    if files.labelled is None:
        sides = {"positive": files.positive, "negative": files.negative}
        texts = {name: [line.text for line in file.lines()] if file else [] for name, file in sides.items()}
        return {name: [_example(each) for each in found if each is not None] for name, found in texts.items()}
    found = read_examples(files, *labels, MAX_EXAMPLES, seed).found
    return {
        "positive": [_example(each.text) for each in found if each.is_positive],
        "negative": [_example(each.text) for each in found if not each.is_positive],
    }


def _example(text_: Any) -> Any:
    return text_ if isinstance(text_, str) else [dict(message) for message in text_]


def _json_in(file: str, what: str) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: there is none.
    """
    path: Path = given_path(file, what)
    if not path.is_file():
        message = f"There is no file {shortened(file)}."
        raise InputError(message)
    try:
        with path.open("rb") as opened:
            return parse_json(opened.read(MAX_FILE_BYTES))
    except (RefusedJSON, OSError) as error:
        message = f"{shortened(file)} cannot be read as JSON: {error}."
        raise ConfigError(message) from error


def _names(text_: str) -> list[str] | None:
    """Names with commas between them; None where there are none."""
    found = [each.strip() for each in text_.split(",") if each.strip()]
    return found or None
