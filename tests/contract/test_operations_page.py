"""The page for administrators: what it names is there, its arithmetic is right."""

import re

import pytest

from mistudio.activations.config import CaptureConfig
from mistudio.activations.shards import shard_schema
from mistudio.sae.footprint import autoencoder_bytes
from tests.support import pages

PAGE = pages.page("operations.md")
needs_kubectl = pytest.mark.skipif(pages.kubectl() is None, reason="needs kubectl (make check-tools)")

# What the page names and is not there yet. A test below wants each of them gone from here as soon as it is.
PENDING_COMMANDS: tuple[str, ...] = ()
PENDING_VARIABLES: set[str] = set()
PENDING_PATHS: tuple[str, ...] = ()
PENDING_LINKS: set[str] = set()


def is_pending(command: pages.Command) -> bool:
    return command.text.startswith(PENDING_COMMANDS)


@needs_kubectl
def test_every_command_and_option_of_the_page_is_there() -> None:
    found = pages.commands(PAGE)
    assert len(found) > 60
    problems = {each.text: pages.problem_of(each) for each in found if not is_pending(each)}
    assert {text: problem for text, problem in problems.items() if problem} == {}


def test_what_is_marked_as_not_there_yet_is_not_there() -> None:
    """So that the marks go when the parts come."""
    for start in PENDING_COMMANDS:
        marked = [each for each in pages.commands(PAGE) if each.text.startswith(start)]
        assert marked, start
        assert any(pages.problem_of(each) for each in marked), f"{start} is there: take its mark away"
    assert pages.unknown_variables(PAGE) == PENDING_VARIABLES
    assert pages.broken_links("operations.md") == PENDING_LINKS
    missing = pages.missing_paths(PAGE)
    for start in PENDING_PATHS:
        assert any(path.startswith(start) for path in missing), f"{start} is there: take its mark away"


def test_every_path_of_the_page_is_there() -> None:
    assert {path for path in pages.missing_paths(PAGE) if not path.startswith(PENDING_PATHS)} == set()


def test_every_metric_of_the_page_is_one_that_a_server_exports() -> None:
    assert pages.metrics(PAGE) - pages.exported_metrics() == set()


@needs_kubectl
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("mistudio trian --sae x", "no command trian"),
        ("mistudio train --no-such x", "train has no --no-such"),
        ("mistudio artifacts show --json", "show needs 1 arguments"),
        ("mistudio artifacts show a b", "show takes 1 arguments, not 2"),
        ("mistudio run interpret --set no_such=1", "interpret has no parameter no_such"),
        ("mistudio serve --no-such 1", "serve has no --no-such"),
        ("make no-such", "no target no-such"),
        ("kubectl frobnicate x", "kubectl has no frobnicate"),
        ("kubectl -n x get pods --no-such", "kubectl get has no --no-such"),
        ("kubectl create secret tls x --no-such", "kubectl create secret tls has no --no-such"),
        ("frobnicate", "frobnicate is not among"),
    ],
)
def test_a_command_that_is_not_there_would_be_found(line: str, what: str) -> None:
    (command,) = pages.commands(f"```bash\n{line}\n```\n")
    assert what in str(pages.problem_of(command))


T, F, D = 10**10, 10**6, 2304
MODEL_FLOPS, SAE_FLOPS, HOUR = 60e12, 30e12, 3600


def row(what: str) -> str:
    (found,) = re.findall(rf"^\| {re.escape(what)} \|.*$", PAGE.split("### Ten billion")[1], re.MULTILINE)
    return found


def test_the_arithmetic_of_ten_billion_tokens_is_that_of_the_file_formats() -> None:
    schema = shard_schema(D, "float16")
    columns = [field for field in schema if field.name != "activation"]
    row_bytes = 2 * schema.field("activation").type.list_size + sum(field.type.bit_width // 8 for field in columns)
    assert row_bytes == 2 * D + 16
    shard = CaptureConfig(hooks=("resid_post.1",)).shard_bytes
    assert f"{T * row_bytes / 1e12:.0f} TB in {-(-T * row_bytes // shard):,} shards of 256 MiB" in row(
        "activations, if stored"
    )
    held_out = T // 100 * row_bytes
    assert f"{held_out / 1e9:.0f} GB in {-(-held_out // shard):,} shards" in PAGE
    assert f"{4 * T / 1e9:.0f} GB" in row("tokenised corpus")
    weights = autoencoder_bytes(D, F)
    assert f"{weights / 1e9:.1f} GB, and {2 * weights / 1e9:.1f} GB" in row("weights of the autoencoder")
    train = 3 * D * F * T
    assert f"{train / 1e18:.0f} EFLOP: {train / SAE_FLOPS / HOUR:.0f} GPU hours" in row("train, one epoch")
    find = 2 * D * F * T
    assert f"{find / 1e18:.0f} EFLOP: {find / SAE_FLOPS / HOUR:.0f} GPU hours" in row("find, the pass")
    assert f"{T * row_bytes / 1e9 / HOUR:.1f} pod hours" in row("read the stored activations once")
    assert f"{F * (0.0035 + 0.0045) / HOUR:.1f} core hours" in row("explain and score by programs")


def test_the_arithmetic_of_capture_is_that_of_the_page_on_performance() -> None:
    """There stand the operations of 10 million tokens of the same model."""
    (peta,) = re.findall(r"10M tokens through 13 blocks .*?\| ([\d.]+) PFLOP", pages.page("performance.md"))
    flop = float(peta) * 1e15 * T / 10**7
    assert f"{flop / 1e18:.1f} EFLOP: {flop / MODEL_FLOPS / HOUR:.0f} GPU hours" in row("capture")
    assert f"{1.625e12 * F / MODEL_FLOPS / HOUR:.1f} GPU hours" in row("find, trials in the model")
