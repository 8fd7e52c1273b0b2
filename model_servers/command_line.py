"""The command line of the servers: settings as options, and the entry that starts one."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.errors import ConfigError, MistudioError
from mistudio.plain_text import shortened
from mistudio.settings import Leaf, leaves, nested, validated
from mistudio.steer.config import ServiceConfig
from model_servers.base.settings import ServerSettings

if TYPE_CHECKING:  # KServe takes a second to import, which --help need not wait for
    from mistudio.instrument.served import Served
    from model_servers.base.predictor import Predictor
    from model_servers.base.shared import Shared

_EXAMPLES = """examples:
  mistudio serve --store ./store
      serve the newest model of a store, with its newest autoencoder, at 127.0.0.1:8080
  mistudio serve --store ./store --line scores/1f2e --line sae/9a8b --rows 32
      serve two autoencoders of one model, named by artifacts
  MISTUDIO_API_KEYS=alice:$SECRET mistudio serve --store ./store --host 0.0.0.0 --grpc-port 8081
      serve other machines, over HTTP and gRPC, with a key

  curl http://127.0.0.1:8080/describe
  curl http://127.0.0.1:8080/openai/v1/completions -H 'Content-Type: application/json' -d '{"model": "NAME",
      "prompt": "Once", "steering": {"edits": [{"op": "add", "feature": 12, "strength": 1, "unit": "relative"}]}}'
"""
_QUEUE = "queue"  # of the engine: the server's max_queue


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to end; an error that is the user's becomes one message and exit code 2."""
    options = _parser().parse_args(arguments)
    # Before torch is loaded: threads that spin while they wait take a core from those that answer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.argv = sys.argv[:1]  # KServe reads them too, when it is imported
    try:
        _serve(vars(options))
    except MistudioError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)


def _serve(options: Mapping[str, Any]) -> None:
    settings = validated(ServerSettings, _content(ServerSettings, options))
    names, shared = _names(options["models"]), _shared(options)
    predictors = [_PREDICTORS[name](options, settings, shared) for name in names]

    import prometheus_client

    from mistudio.heap import keep_freed_memory
    from model_servers.base.logs import configure_logging
    from model_servers.base.server import ModelServer

    configure_logging(settings.log_level)
    keep_freed_memory()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    ModelServer(predictors, settings).run()


def _names(models: str) -> list[str]:
    names = list(dict.fromkeys(models.replace(" ", "").split(",")))
    unknown = [name for name in names if name not in _PREDICTORS]
    if unknown:
        message = f"--models names {shortened(unknown[0])}: there is {', '.join(_PREDICTORS)}."
        raise ConfigError(message)
    return names


def _steer(options: Mapping[str, Any], settings: ServerSettings, shared: "Shared[Served]") -> "Predictor":
    """The predictor ``steer``."""
    from mistudio.steer.audit import AuditLog
    from model_servers.steer.predictor import SteerPredictor

    content = _content(ServiceConfig, options) | {_QUEUE: settings.max_queue}
    config = validated(ServiceConfig, content)
    template = _text(options["chat_template"])
    audit = AuditLog(Path(options["audit_log"])) if options["audit_log"] else None
    return SteerPredictor(shared, config, template, audit)


Make = Callable[[Mapping[str, Any], ServerSettings, "Shared[Served]"], "Predictor"]
_PREDICTORS: dict[str, Make] = {"steer": _steer}


def _shared(options: Mapping[str, Any]) -> "Shared[Served]":
    """The model for all predictors; the store is opened now, and the model when the first of them is loaded."""
    from mistudio.artifacts import default_store_url, open_to_read
    from model_servers.base.shared import Shared

    store = open_to_read(options["store"] or default_store_url())

    def opened() -> "Served":
        from mistudio.instrument.served import open_served
        from mistudio.subject import resolve_source

        source = resolve_source(options["subject"]) if options["subject"] else None
        return open_served(store, options["line"] or (), source)

    return Shared(opened)


def _text(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        message = f"--chat-template {path:.200} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}."
        raise ConfigError(message) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mistudio serve",
        description="Serve models of a store over HTTP: OpenAI's API, and KServe's protocols V1 and V2. The same as "
        "python -m model_servers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("what is served").add_argument
    add("--models", default="steer", help="predictors, with commas between them: steer (default: %(default)s)")
    add(
        "--store",
        help="store, read only: a folder, or s3://bucket/prefix (default: MISTUDIO_STORE, else the user's data folder)",
    )
    add("--line", action="append", help="scores, explanations, features or sae to serve; several of one model "
        "(default: the newest)")  # fmt: skip
    add("--subject", help="the language model, where it is not found as the captures name it")
    add("--chat-template", metavar="FILE", help="Jinja template for chats, in place of the tokenizer's own")
    add("--audit-log", metavar="FILE", help="append every request that changes the model; see mistudio audit verify")
    _add_settings(parser.add_argument_group("server"), ServerSettings)
    _add_settings(parser.add_argument_group("steer"), ServiceConfig)
    return parser


def _add_settings(group: "argparse._ArgumentGroup", config: type[ServerSettings] | type[ServiceConfig]) -> None:
    for leaf in _offered(config):
        flag = f"--{leaf.name.replace('_', '-')}"
        shown = "" if leaf.default is None else f" (default: {leaf.default})"
        text = f"{leaf.text}{shown}".replace("%", "%%")
        if leaf.kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(flag, metavar=leaf.kind.__name__.upper(), choices=leaf.choices or None, help=text)


def _content(config: type[ServerSettings] | type[ServiceConfig], options: Mapping[str, Any]) -> dict[str, Any]:
    known = _offered(config)
    given = {leaf.name: options[leaf.name] for leaf in known if options[leaf.name] is not None}
    plain = {leaf.name: value if leaf.kind is bool else leaf.parse(value) for leaf in known
             if (value := given.get(leaf.name)) is not None}  # fmt: skip
    return nested(known, plain, "the command line")


def _offered(config: type[ServerSettings] | type[ServiceConfig]) -> list[Leaf]:
    return [leaf for leaf in leaves(config) if leaf.name != _QUEUE]
