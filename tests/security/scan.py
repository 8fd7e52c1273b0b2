"""Look at the repository: for unsafe code, for secrets, and for known holes in what it depends on.

``python -m tests.security.scan [bandit] [secrets] [audit]``; without names all three. Each is a tool in an environment
of its own (``make security`` makes it). One line a check; exit status 1 where a check found something.

* bandit: its settings and what it passes over, with reasons, stand in pyproject.toml.
* secrets: detect-secrets, over all files that git knows; what it may find (made-up keys of tests) is in
  ``.secrets.baseline``, which ``--write-baseline`` writes anew: read the difference before it is committed.
* audit: pip-audit of constraints.txt; where the database of known holes cannot be reached, it says so and is skipped.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "build" / "security-tools" / "bin"
BASELINE = ROOT / ".secrets.baseline"
CODE = ("src", "model_servers", "components", "pipelines", "benchmarks")
# Hashes stand in many files: lock files, compiled pipelines, digests in tests. Only the other kind of random text is
# looked for.
# Names of variables and of the cluster's secrets stand where a secret would.
NAMES = r"^([A-Z][A-Z0-9]*(_[A-Z0-9]+)+|mistudio-[a-z0-9-]+)$"
OPTIONS = [
    "--exclude-secrets",
    NAMES,
    "--disable-plugin",
    "HexHighEntropyString",
    "--exclude-files",
    r"^(docs/images/.*|constraints\.txt|.*\.lock|\.secrets\.baseline)$",
]
AUDIT_TIMEOUT_S = 300


class Verdict(NamedTuple):
    """What came of a check."""

    state: str  # clean, found or skipped
    text: str


def bandit() -> Verdict:
    """Whether bandit finds code that it holds for unsafe."""
    done = _run("bandit", "--quiet", "--recursive", "--configfile", "pyproject.toml", *CODE)
    return Verdict("clean", "no finding") if done.returncode == 0 else Verdict("found", done.stdout + done.stderr)


def secrets(folder: Path | None = None) -> Verdict:
    """Whether there are secrets that are not in the baseline: in all that git knows, or in the files of a folder."""
    known = {(name, each["hashed_secret"]) for name, found in _results(BASELINE.read_text()).items() for each in found}
    done = _run("detect-secrets", "scan", *OPTIONS, *(["--all-files", "."] if folder else []), root=folder or ROOT)
    new = [
        f"{name}:{each['line_number']}: {each['type']}"
        for name, found in _results(done.stdout).items()
        for each in found
        if (name, each["hashed_secret"]) not in known
    ]
    return Verdict("found", "\n".join(new)) if new else Verdict("clean", f"{len(known)} made-up ones of tests known")


def audit() -> Verdict:
    """Whether pip-audit knows of holes in what ``constraints.txt`` pins."""
    arguments = ("--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--format", "json")
    try:
        done = _run("pip-audit", *arguments, "--progress-spinner", "off", timeout_s=AUDIT_TIMEOUT_S)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return Verdict("skipped", "the database of known holes cannot be reached from here")
    looked_up = [each for each in packages if "skip_reason" not in each]
    if not looked_up:
        return Verdict(
            "skipped", f"the database of known holes has none of {len(packages)} packages, or is not reached"
        )
    holes = [f"{each['name']} {each['version']}: {hole['id']}" for each in looked_up for hole in each["vulns"]]
    return Verdict("found", "\n".join(holes)) if holes else Verdict("clean", f"{len(looked_up)} packages")


CHECKS: dict[str, Callable[[], Verdict]] = {"bandit": bandit, "secrets": secrets, "audit": audit}


def write_baseline() -> None:
    """Take what is found now for harmless."""
    results = _results(_run("detect-secrets", "scan", *OPTIONS).stdout)
    kept = {
        name: [{key: each[key] for key in ("type", "hashed_secret")} for each in found]  # lines move
        for name, found in sorted(results.items())
    }
    BASELINE.write_text(json.dumps({"results": kept}, indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run the checks; the exit status."""
    if list(arguments) == ["--write-baseline"]:
        write_baseline()
        return 0
    unknown = set(arguments) - CHECKS.keys()
    if unknown:
        sys.stderr.write(f"There is no check {', '.join(sorted(unknown))}: there is {', '.join(CHECKS)}.\n")
        return 2
    verdicts = {name: CHECKS[name]() for name in arguments or CHECKS}
    for name, verdict in verdicts.items():
        sys.stdout.write(f"{name:<8} {verdict.state:<8} {verdict.text}\n")
    return int(any(verdict.state == "found" for verdict in verdicts.values()))


def _results(content: str) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = json.loads(content)["results"]
    return results


def _run(
    tool: str, *arguments: str, root: Path = ROOT, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    command = [str(TOOLS / tool), *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=timeout_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
