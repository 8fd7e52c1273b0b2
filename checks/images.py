"""Images in manifests: by digest, or by a content hash where they are the project's own."""

import re
from collections.abc import Iterator, Mapping, Sequence

import yaml

from checks.pods import containers_of, pods
from checks.rendering import MANIFESTS
from checks.tools import ROOT
from images.references import COMMAND, IMAGES, outdated

_OWN = re.compile(r"(?P<registry>.+)/mistudio/(?P<name>[a-z-]+)")
_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_MUTABLE = frozenset({"latest", "stable", "main", "master", "dev", "edge", "nightly"})
REFS = ROOT / "images" / "refs.env"


def look() -> tuple[str, Sequence[str]]:
    """Every image of every container."""
    tags = own_tags()
    named = [(pod.place, container.get("image")) for pod in pods() for container in containers_of(pod.spec)]
    images = {(place, image) for place, image in named if image}
    count = len({image for _, image in images})
    return f"{count} images", [
        f"{place}: {problem}" for place, image in sorted(images) for problem in problems_of(image, tags)
    ]


def look_names() -> tuple[str, Sequence[str]]:
    """Where the names of the project's own images stand."""
    stale = [f"{path} names other images than those of this checkout: run {COMMAND}" for path in outdated()]
    return f"{len(IMAGES)} images", stale


def problems_of(image: str, tags: Mapping[str, str]) -> Iterator[str]:
    """What lets an image change under its name.

    Args:
        image: as a container names it.
        tags: of the project's own images, by their names without a registry.
    """
    if _DIGEST.fullmatch(image):
        return
    name, colon, tag = image.rpartition(":")
    own = _OWN.fullmatch(name)
    if own is None or not colon or "/" in tag:
        yield f"image {image} has no digest"
    elif tag in _MUTABLE:
        yield f"image {image} has a tag that moves"
    elif tags.get(own["name"]) != tag:
        known = tags.get(own["name"], "none")
        yield f"image {image} has another tag than images/refs.env and components/images: {known}"


def own_tags() -> dict[str, str]:
    """Tags of the project's own images: those of images/refs.env, and else those of components/images."""
    component = yaml.safe_load((MANIFESTS / "components" / "images" / "kustomization.yaml").read_text())
    pairs = [(each["name"], each["newTag"]) for each in component["images"]]
    lines = [line.strip() for line in REFS.read_text().splitlines()]
    given = [line.partition("=")[2].rpartition(":") for line in lines if line and not line.startswith("#")]
    pairs += [(name, tag) for name, _, tag in given]
    return {name.rpartition("/")[2]: tag for name, tag in pairs}
