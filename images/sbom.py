"""What is in an image, as a CycloneDX document: ``sbom.py NAME LOCK...`` writes it to standard output.

Runs while an image is built, with the base's Python and nothing installed: reads the metadata of the Python packages
where they were installed, their hashes from the locks, and the list of Debian packages of the base.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

_TREES = ("/opt/mistudio", "/packages", "/project")
_DPKG = Path("/var/lib/dpkg/status")
_RELEASE = Path("/etc/os-release")

Component = dict[str, Any]


def document(name: str, packages: Sequence[Component], system: Sequence[Component], version: str) -> dict[str, Any]:
    """The CycloneDX document of an image."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"mistudio-{name}",
                "name": f"mistudio-{name}",
                "version": version,
            }
        },
        "components": sorted([*packages, *system], key=lambda each: each["bom-ref"]),
    }


def python_packages(folders: Sequence[str], hashes: dict[str, list[str]]) -> Iterator[Component]:
    """The Python packages installed in these folders, with the hashes of the files that they may come from."""
    for each in distributions(path=list(folders)):
        name = re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower()
        reference = f"pkg:pypi/{name}@{each.version.replace('+', '%2B')}"
        component = {"type": "library", "bom-ref": reference, "name": name, "version": each.version, "purl": reference}
        yield component | _licence(each) | _files(hashes.get(name, []))


def debian_packages(status: str, release: str) -> Iterator[Component]:
    """The installed packages that dpkg's status file lists."""
    distribution = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    suite = f"debian-{distribution['VERSION_ID'].strip(chr(34))}"
    for paragraph in status.strip().split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields["Status"] == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            escaped = version.replace("+", "%2B").replace(":", "%3A")
            reference = f"pkg:deb/debian/{name}@{escaped}?arch={fields['Architecture']}&distro={suite}"
            yield {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}


def locked_hashes(locks: Sequence[str]) -> dict[str, list[str]]:
    """The hashes of each package in the locks' texts."""
    hashes: dict[str, list[str]] = {}
    for lock in locks:
        for line in lock.splitlines():
            if "==" in line:
                known = hashes.setdefault(line.split("==")[0], [])
            elif "--hash=sha256:" in line:
                known.append(line.split("--hash=sha256:")[1].split()[0])
    return hashes


def _licence(package: Distribution) -> Component:
    expression = package.metadata.get("License-Expression")
    if expression:
        return {"licenses": [{"expression": expression}]}
    text = package.metadata.get("License") or ""
    # Some put the whole text of the licence there.
    return {"licenses": [{"license": {"name": text.strip()}}]} if 0 < len(text.strip()) <= 80 else {}  # noqa: PLR2004


def _files(hashes: Sequence[str]) -> Component:
    """One hash is of the file itself; of several, one a platform, which one it was is not known any more."""
    return {"hashes": [{"alg": "SHA-256", "content": hashes[0]}]} if len(hashes) == 1 else {}


def main(name: str, *locks: str) -> None:
    """Write the document of the image that is being built."""
    folders = [str(each) for tree in _TREES for each in Path(tree).glob("lib/python3*/site-packages")]
    hashes = locked_hashes([Path(each).read_text(encoding="utf-8") for each in locks])
    packages = list(python_packages(folders, hashes))
    version = next(each["version"] for each in packages if each["name"] == "mistudio")
    system = list(debian_packages(_DPKG.read_text(encoding="utf-8"), _RELEASE.read_text(encoding="utf-8")))
    json.dump(document(name, packages, system, version), sys.stdout, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
