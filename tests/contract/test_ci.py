"""The workflow of CI: what it is by the schema of its makers, what it may do, that it does as ``make ci-submit``."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yaml"
TOKEN_SCRIPT = ROOT / ".github" / "print-oidc-token"
_RULES = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"


def content() -> dict[str, Any]:
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def steps() -> list[dict[str, Any]]:
    return [step for job in content()["jobs"].values() for step in job["steps"]]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name


def test_it_is_a_workflow_by_the_schema() -> None:
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", WORKFLOW)
    assert done.returncode == 0, done.stdout


def test_what_is_no_workflow_is_refused_by_the_same_check(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(WORKFLOW.read_text().replace("timeout-minutes", "timeout"))
    assert run(
        tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", tmp_path / "bad.yaml"
    ).returncode


def test_its_yaml_is_clean() -> None:
    done = run(tool("yamllint"), "--strict", "--config-data", _RULES, WORKFLOW)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_commit_with_the_version_beside_it() -> None:
    lines = re.findall(r"uses: (.*)", WORKFLOW.read_text(encoding="utf-8"))
    assert len(lines) > 8
    assert [line for line in lines if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+(\.\d+)+", line)] == []


def test_jobs_may_read_the_code_and_what_they_need_beside_it() -> None:
    assert content()["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in content()["jobs"].items() if "permissions" in job}
    assert more == {
        "images": {"contents": "read", "packages": "write"},
        "submit": {"contents": "read", "id-token": "write"},
    }
    checkouts = [step for step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)
    assert all("timeout-minutes" in job for job in content()["jobs"].values())


def test_secrets_are_reached_on_main_alone() -> None:
    secret = {name for name, job in content()["jobs"].items() if "secrets." in json.dumps(job)}
    assert secret == {"images", "submit"}
    assert all("refs/heads/main" in content()["jobs"][name]["if"] for name in secret)
    assert "pull_request_target" not in WORKFLOW.read_text(encoding="utf-8")


def test_no_text_of_a_pull_request_gets_into_a_shell() -> None:
    assert [step["run"] for step in steps() if "${{" in step.get("run", "")] == []


def test_it_does_what_make_ci_submit_does_in_the_same_order() -> None:
    here = re.findall(r"^make (\S+)", run("make", "--dry-run", "ci-submit", "MAKE=make").stdout, re.MULTILINE)
    jobs = content()["jobs"]
    there = [step["run"].split()[1] for step in steps() if step.get("run", "").startswith("make ")]
    assert here == there == ["lint", "test", "drift", "push-images", "submit-small"]
    order = list(jobs)
    assert [jobs[name].get("needs") for name in order] == [None, *order[:-1]]


def test_variables_of_the_submission_are_those_that_the_program_reads() -> None:
    (environment,) = [step["env"] for step in steps() if "env" in step]
    known = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    own = [name for name in environment if name.startswith("MISTUDIO_")]
    assert len(own) == 4
    assert [name for name in own if f"`{name}`" not in known] == []


def test_the_submission_of_ci_passes_the_checks_of_settings() -> None:
    from mistudio.runs import Target
    from mistudio.runs.checking import check_request
    from mistudio.runs.checkout import load_pipeline, parse_settings

    line = run("make", "--dry-run", "submit-small").stdout.replace("\\\n", " ")
    settings = re.findall(r"--set (\S+)", line)
    values = parse_settings(load_pipeline("interpret"), settings)
    check_request(Target(kind="pipeline", name="interpret"), values, elsewhere=True)
    assert values["min_explained_variance"] > 0  # the gate has something to hold


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    done = run("shellcheck", TOKEN_SCRIPT)
    assert done.returncode == 0, done.stdout


class _Issuer(BaseHTTPRequestHandler):
    """GitHub's side of a job's token."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        right = self.headers.get("Authorization") == "bearer of-the-job" and query == {
            "v": ["1"],
            "audience": ["kube flow"],
        }
        body = json.dumps({"value": "the-token"}).encode()
        self.send_response(200 if right else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("token", "printed"), [("of-the-job", "the-token\n"), ("of-another", "")])
def test_the_token_of_a_job_is_asked_for_and_printed_alone(token: str, printed: str) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Issuer)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    environment = {
        **os.environ,
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{server.server_address[1]}/?v=1",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": token,
    }
    command = [str(TOKEN_SCRIPT), "kube flow"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    thread.join()
    server.server_close()
    assert done.stdout == printed
    assert (done.returncode == 0) == bool(printed)
    assert token not in done.stdout + done.stderr


def test_without_a_job_there_is_no_token() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTIONS_")}
    done = subprocess.run([str(TOKEN_SCRIPT), "x"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no job of GitHub Actions" in done.stderr
