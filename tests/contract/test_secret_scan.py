"""What `make security` looks with finds what it is there for; without its tools these are skipped."""

import subprocess
from pathlib import Path

import pytest

from tests.security import scan

pytestmark = pytest.mark.skipif(
    not (scan.TOOLS / "detect-secrets").is_file(), reason="needs the tools of make security (build/security-tools)"
)

# In pieces, so that this file holds none.
PLANTED = {
    "an access key of AWS": "aws_id: AKIA" + "Z7QK4WJX2MTB5RVN",
    "a secret key of AWS": "secret_access_key: '" + "q7Xk0ZrP9vTnB3mWyH5sLdJfUa1CeGi8KoQx2RbM" + "'",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n",
    "a token of GitHub": "token: ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "a password": "password = '" + "correct-horse-battery" + "'",
    "an address with a password": "http://me:" + "sw0rdfish@db.internal/x",
}


def found_in(folder: Path, text: str, name: str = "settings.yaml") -> scan.Verdict:
    (folder / name).write_text(text)
    return scan.secrets(folder)


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_secret_is_found_and_its_file_is_named(tmp_path: Path, what: str) -> None:
    verdict = found_in(tmp_path, PLANTED[what])
    assert verdict.state == "found"
    assert "settings.yaml" in verdict.text


def test_what_is_no_secret_is_not_found(tmp_path: Path) -> None:
    assert found_in(tmp_path, "image: batch\nname: mistudio-s3\nkey_name: MISTUDIO_LLM_API_KEY\n").state == "clean"


def test_unsafe_code_is_found(tmp_path: Path) -> None:
    (tmp_path / "unsafe.py").write_text("import pickle\n\n\ndef load(data):\n    return pickle.loads(data)\n")
    command = [str(scan.TOOLS / "bandit"), "--quiet", "--configfile", str(scan.ROOT / "pyproject.toml")]
    done = subprocess.run([*command, str(tmp_path / "unsafe.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "B301" in done.stdout


def test_the_baseline_holds_made_up_keys_of_tests_alone() -> None:
    import json

    files = set(json.loads(scan.BASELINE.read_text())["results"])
    assert files
    assert {name for name in files if not name.startswith("tests/")} == set()
