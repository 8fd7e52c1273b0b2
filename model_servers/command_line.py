"""The command line of the servers: settings as options, and the entry that starts one."""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.errors import ConfigError, MistudioError
from mistudio.instrument.listening import Relay
from mistudio.monitor.config import MonitorConfig
from mistudio.plain_text import shortened
from mistudio.settings import Leaf, Settings, leaves, nested, validated
from mistudio.steer.config import ServiceConfig
from model_servers.base.settings import ServerSettings
from model_servers.correlate.config import ServingConfig

if TYPE_CHECKING:  # KServe takes a second to import, which --help need not wait for
    from mistudio.artifacts import Store
    from mistudio.instrument.served import Served
    from model_servers.base.predictor import Predictor
    from model_servers.base.shared import Shared

_EXAMPLES = """examples:
  mistudio serve --store ./store
      serve the newest model of a store, with its newest autoencoder, at 127.0.0.1:8080
  mistudio serve --store ./store --line scores/1f2e --line sae/9a8b --rows 32
      serve two autoencoders of one model, named by artifacts
  mistudio serve --store ./store --models correlate,monitor,steer --correlate-passes 4
      look up features, watch traffic and steer, in one process that loads the model once
  mistudio serve --store ./store --models monitor,steer --monitor-watch-list watch.yaml --monitor-rules rules.yaml
      watch the traffic of any model, and what is generated here
  MISTUDIO_API_KEYS=alice:$SECRET mistudio serve --store ./store --host 0.0.0.0 --grpc-port 8081
      serve other machines, over HTTP and gRPC, with a key

  curl http://127.0.0.1:8080/describe
  curl http://127.0.0.1:8080/v1/correlate/text -H 'Content-Type: application/json' -d '{"text": "Once upon a time"}'
  curl http://127.0.0.1:8080/openai/v1/completions -H 'Content-Type: application/json' -d '{"model": "NAME",
      "prompt": "Once", "steering": {"edits": [{"op": "add", "feature": 12, "strength": 1, "unit": "relative"}]}}'
"""


class _Offered(NamedTuple):
    """A configuration whose settings are options.

    Attributes:
        config: the configuration.
        prefix: what its options begin with, where names of others would be the same.
        of_the_server: settings that are the server's.
        by_path: whether options are named by where a setting is, for the last part of that says too little.
        often: names of options that many need; ``--help`` shows these, and ``--help-all`` the others too.
    """

    config: type[Settings]
    prefix: str = ""
    of_the_server: frozenset[str] = frozenset()
    by_path: bool = False
    often: frozenset[str] = frozenset()

    def leaves(self) -> Iterator[tuple[str, Leaf]]:
        """Each setting, by the name of its option, with underscores."""
        for leaf in leaves(self.config):
            if leaf.name not in self.of_the_server:
                name = leaf.path.replace(".", "_") if self.by_path else leaf.name
                yield f"{self.prefix}{name}", leaf

    def content(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What was given of them, where it belongs in the configuration."""
        known = dict(self.leaves())
        given = {name: options[name] for name in known if options[name] is not None}
        plain = {known[name].path: value if known[name].kind is bool else known[name].parse(value)
                 for name, value in given.items()}  # fmt: skip
        return nested(list(known.values()), plain, "the command line")


class _Entry(NamedTuple):
    """A predictor that can be served, and its settings."""

    make: "Make"
    offered: _Offered


Make = Callable[[Mapping[str, Any], ServerSettings, "Shared[Served]"], "Predictor"]
_SERVER = _Offered(
    ServerSettings,
    often=frozenset({"host", "port", "grpc_port", "keys_file", "requests_per_minute", "sink_keys", "log_level"}),
)
_OFTEN_CORRELATE = frozenset({"correlate_passes", "correlate_allow_saving"})
_OFTEN_MONITOR = frozenset(
    f"monitor_{name}"
    for name in (
        "watch_list",
        "rules",
        "folder",
        "reference",
        "forward_url",
        "traffic_tenant_header",
        "drift_texts_per_false_alarm",
        "history_retention_s",
        "history_keep_text",
    )
)
_OFTEN_STEER = frozenset({"engine", "rows", "max_tokens", "default_tokens", "max_relative"})
# Engines, look-ups and the monitor's reading are threads that compute. The event loop waits for each of them to let go
# of the interpreter, for 5 ms unless told otherwise, and a sink has to answer within 10.
_SWITCH_S = 0.0005
_QUEUE = frozenset({"queue"})  # the server's max_queue
_RELAY = Relay()  # so that a monitor follows what steer writes, whichever of them is loaded first


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
    settings = validated(ServerSettings, _SERVER.content(options))
    predictors = _predictors(options, settings)

    import prometheus_client

    from mistudio.heap import keep_freed_memory
    from model_servers.base.logs import configure_logging
    from model_servers.base.server import ModelServer

    configure_logging(settings.log_level)
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_S)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    ModelServer(predictors, settings, on_loaded=_leave_to_itself).run()


def _leave_to_itself() -> None:
    """Let the collector of garbage pass over what was loaded.

    It is half a million objects, which it would go through again and again, 0.3 s each time, and nobody is answered.
    """
    gc.collect()
    gc.freeze()


def _predictors(options: Mapping[str, Any], settings: ServerSettings) -> "list[Predictor]":
    """Those that are to be served, in one process with one model; not loaded yet."""
    names = _names(options["models"])
    _check_owners(options, names)
    shared = _shared(options)
    return [_PREDICTORS[name].make(options, settings, shared) for name in names]


def _names(models: str) -> list[str]:
    names = list(dict.fromkeys(models.replace(" ", "").split(",")))
    unknown = [name for name in names if name not in _PREDICTORS]
    if unknown:
        message = f"--models names {shortened(unknown[0])}: there is {', '.join(_PREDICTORS)}."
        raise ConfigError(message)
    return names


def _check_owners(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse a setting of a predictor that is not served: it would change nothing."""
    for name, entry in _PREDICTORS.items():
        given = [option for option, _ in entry.offered.leaves() if options[option] is not None]
        if given and name not in names:
            message = (
                f"{_flag(given[0])} is a setting of {name}, which is not served: name it too, as in --models "
                f"{','.join([*names, name])}, or leave the setting out."
            )
            raise ConfigError(message)


def _correlate(options: Mapping[str, Any], settings: ServerSettings, shared: "Shared[Served]") -> "Predictor":
    """The predictor ``correlate``."""
    from model_servers.correlate.predictor import CorrelatePredictor

    content = _PREDICTORS["correlate"].offered.content(options) | {"queue": settings.max_queue}
    return CorrelatePredictor(shared, validated(ServingConfig, content), _text(options["chat_template"]))


def _monitor(options: Mapping[str, Any], settings: ServerSettings, shared: "Shared[Served]") -> "Predictor":
    """The predictor ``monitor``."""
    from model_servers.monitor.predictor import MonitorPredictor

    config = validated(MonitorConfig, _PREDICTORS["monitor"].offered.content(options))
    relay = _RELAY if "steer" in _names(options["models"]) else None
    return MonitorPredictor(shared, config, relay, _text(options["chat_template"]))


def _steer(options: Mapping[str, Any], settings: ServerSettings, shared: "Shared[Served]") -> "Predictor":
    """The predictor ``steer``."""
    from mistudio.steer.audit import AuditLog
    from model_servers.steer.predictor import SteerPredictor

    content = _PREDICTORS["steer"].offered.content(options) | {"queue": settings.max_queue}
    audit = AuditLog(Path(options["audit_log"])) if options["audit_log"] else None
    return SteerPredictor(shared, validated(ServiceConfig, content), _text(options["chat_template"]), audit, _RELAY)


_PREDICTORS: dict[str, _Entry] = {
    "correlate": _Entry(_correlate, _Offered(ServingConfig, "correlate_", _QUEUE, often=_OFTEN_CORRELATE)),
    "monitor": _Entry(_monitor, _Offered(MonitorConfig, "monitor_", by_path=True, often=_OFTEN_MONITOR)),
    "steer": _Entry(_steer, _Offered(ServiceConfig, of_the_server=_QUEUE, often=_OFTEN_STEER)),
}


def _shared(options: Mapping[str, Any]) -> "Shared[Served]":
    """The model for all predictors; the store is opened now, and the model when the first of them is loaded."""
    from mistudio.artifacts import default_store_url, open_store, open_to_read
    from model_servers.base.shared import Shared

    opening = open_store if options["correlate_allow_saving"] else open_to_read
    store = opening(options["store"] or default_store_url())

    def opened() -> "Served":
        from mistudio.instrument.served import open_served
        from mistudio.subject import resolve_source

        source = resolve_source(options["subject"]) if options["subject"] else None
        return open_served(store, options["line"] or (), source, versions=_versions(options, store))

    return Shared(opened)


def _versions(options: Mapping[str, Any], store: "Store") -> frozenset[str]:
    """Models that may be served in place of the one that the autoencoders were trained on: what watch lists are for."""
    from mistudio.monitor.watch.realigned import accepted_versions
    from mistudio.monitor.watch.watch_list import read_watch_list

    names, path = _names(options["models"]), options["monitor_watch_list"]
    if "monitor" not in names or not path:
        return frozenset()
    found = accepted_versions(store, read_watch_list(Path(path)))
    if found and set(names) != {"monitor"}:
        message = (
            "The watch list is read through a realignment, and others would read features of the old version as they "
            "are: serve it by --models monitor alone."
        )
        raise ConfigError(message)
    return found


def _text(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        message = f"--chat-template {path:.200} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}."
        raise ConfigError(message) from error


class _HelpAll(argparse.Action):
    """Print every option, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_arguments: object) -> None:
        """See :class:`argparse.Action`."""
        _parser(is_whole=True).print_help()
        parser.exit()


def _parser(*, is_whole: bool = False) -> argparse.ArgumentParser:
    """All options; help tells of all of them, or of those that many need."""
    parser = argparse.ArgumentParser(
        prog="mistudio serve",
        usage="%(prog)s [--models MODELS] [--store STORE] [OPTIONS]",
        description="Serve models of a store over HTTP: look-ups of features, OpenAI's API, and KServe's protocols V1 "
        "and V2. The same as python -m model_servers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every option: limits, and how much is kept")
    add = parser.add_argument_group("what is served").add_argument
    add("--models", default="steer", help=f"predictors, with commas between them: any of {', '.join(_PREDICTORS)} "
        "(default: %(default)s)")  # fmt: skip
    add(
        "--store",
        help="store, read only: a folder, or s3://bucket/prefix (default: MISTUDIO_STORE, else the user's data folder)",
    )
    add("--line", action="append", help="scores, explanations, features or sae to serve; several of one model "
        "(default: the newest)")  # fmt: skip
    add("--subject", help="the language model, where it is not found as the captures name it")
    add("--chat-template", metavar="FILE", help="Jinja template for chats, in place of the tokenizer's own")
    add("--audit-log", metavar="FILE", help="append every request that changes the model; see mistudio audit verify")
    _add_settings(parser.add_argument_group("server"), _SERVER, is_whole=is_whole)
    for name, entry in _PREDICTORS.items():
        _add_settings(parser.add_argument_group(name, f"where --models names {name}"), entry.offered, is_whole=is_whole)
    return parser


def _add_settings(group: "argparse._ArgumentGroup", offered: _Offered, *, is_whole: bool) -> None:
    for name, leaf in offered.leaves():
        shown = "" if leaf.default in (None, (), [], "", {}) else f" (default: {leaf.default})"
        is_shown = is_whole or name in offered.often
        meant = leaf.text.replace("None:", "not given:") if leaf.default is None else leaf.text
        text = f"{meant}{shown}".replace("%", "%%") if is_shown else argparse.SUPPRESS
        if leaf.kind is bool:
            group.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)
        else:
            choices = None if leaf.many else leaf.choices or None
            group.add_argument(_flag(name), metavar=leaf.kind.__name__.upper(), choices=choices, help=text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
