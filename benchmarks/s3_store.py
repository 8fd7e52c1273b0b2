"""How fast files go to and from a bucket through the store, beside the minio client's own calls on the same files.

Run as ``python -m benchmarks.s3_store`` (``make bench-s3``) in the root of the checkout. A server is started for it
unless AWS_ENDPOINT_URL names one and MISTUDIO_STORE a store in a bucket there. Ours and theirs take turns; the ratio
is the median of those of the pairs. Upload: a file is written in blocks and then sent, by ``put`` (which hashes it) and
by ``fput_object``. Download: ``fetch`` into an empty cache, and ``fget_object``. Also: the most memory that a process
takes for both, above what it has before, and how long an artifact takes to open. Prints a table and writes
``build/bench/s3_store.json``.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from minio import Minio

from benchmarks.peak_memory import peak_bytes
from benchmarks.reporting import Paired, Row, describe_machine, paired, publish, row, timed, versions
from mistudio.artifacts import Draft, Recipe, Store, Summary, open_artifact, open_store, produce
from mistudio.artifacts.s3.address import endpoint, parse_address
from tests.support.s3_server import REGION, Server

_TO_REACH = 0.8
_MEMORY_TO_REACH_MB = 160  # four parts of 16 MiB and what the client makes of them
_BLOCK_BYTES = 1 << 20


def write_file(path: Path, num_bytes: int) -> None:
    """A file that no server can make smaller."""
    generator = random.Random(0)
    with path.open("wb") as file:
        for start in range(0, num_bytes, _BLOCK_BYTES):
            file.write(generator.randbytes(min(_BLOCK_BYTES, num_bytes - start)))


def copy_blocks(source: Path, target: BinaryIO) -> None:
    """Write a file as a step does, a block at a time."""
    with source.open("rb") as blocks:
        while block := blocks.read(_BLOCK_BYTES):
            target.write(block)


def put(store: Store, name: str, source: Path) -> None:
    with store.put(name) as staged, staged.open() as file:
        copy_blocks(source, cast(BinaryIO, file))


def with_cache(url: str, folder: Path) -> Store:
    """The store, with a cache that holds nothing yet."""
    os.environ["MISTUDIO_CACHE"] = str(folder / uuid.uuid4().hex)
    return open_store(url)


def client() -> Minio:
    """The minio client as its documentation has it."""
    where = endpoint()
    keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    return Minio(where.host, *keys, secure=where.is_secure, region=os.environ.get("AWS_DEFAULT_REGION", REGION))


def speeds(url: str, source: Path, pairs: int) -> list[Row]:
    """Both ways, ours and theirs in turn."""
    bucket, prefix = parse_address(url)
    theirs, folder = client(), source.parent
    store = with_cache(url, folder)
    own_key, their_key, fetched = f"{prefix}/bench/own", f"{prefix}/bench/theirs", folder / "fetched"

    def write_and_send() -> None:
        written = folder / uuid.uuid4().hex  # it stays, as ours does in the cache
        with written.open("wb") as file:
            copy_blocks(source, file)
        theirs.fput_object(bucket, their_key, str(written))

    uploads = paired(lambda: put(store, "bench/own", source), write_and_send, pairs)
    caches = [with_cache(url, folder) for _ in range(pairs + 1)]
    downloads = paired(
        lambda: caches.pop().fetch("bench/own"), lambda: theirs.fget_object(bucket, own_key, str(fetched)), pairs
    )
    return [*told("upload", source, uploads), *told("download", source, downloads)]


def told(what: str, source: Path, times: Paired) -> list[Row]:
    megabytes = source.stat().st_size / 1e6
    own, their = (round(megabytes / statistics.median(column), 1) for column in times)
    ratio = round(times.speed, 3)
    holds = ratio >= _TO_REACH
    return [
        row(f"{what} of {megabytes:.0f} MB", own, "MB/s", f"minio's client: {their}", None, True),
        row(f"{what}, of the speed of minio's client", ratio, "", f"quartiles {times.quartiles}", _TO_REACH, holds),
    ]


def memory(url: str, source: Path) -> list[Row]:
    """Most memory of a process that writes the file and fetches it, above what it had before."""
    command = [sys.executable, "-m", "benchmarks.s3_store", "--only-memory", url, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = round(int(done.stdout) / 1e6)
    holds = taken <= _MEMORY_TO_REACH_MB
    return [row("memory for both ways, at most", taken, "MB", "", _MEMORY_TO_REACH_MB, holds)]


def only_memory(url: str, source: Path) -> int:
    """What :func:`memory` runs in a process of its own."""
    store = with_cache(url, source.parent)
    store.create(f"bench/{uuid.uuid4().hex}", b"all is loaded")
    before = peak_bytes()
    put(store, "bench/memory", source)
    with_cache(url, source.parent).fetch("bench/memory")
    return peak_bytes() - before


def opening(url: str, folder: Path, tries: int) -> list[Row]:
    """An artifact with a file of a kilobyte: opened, and the file read, the first time and again."""

    def build(draft: Draft) -> Summary:
        draft.write("weights", bytes(1000))
        return {}

    uri = produce(open_store(url), Recipe(kind="sae", config={"n": uuid.uuid4().hex}), "bench", build).artifact.uri
    store = with_cache(url, folder)
    times = {
        "an artifact, opened": [timed(lambda: open_artifact(store, uri)) for _ in range(tries)],
        "an artifact and its file, first": [timed(lambda: open_artifact(store, uri).file("weights"))],
        "an artifact and its file, again": [
            timed(lambda: open_artifact(store, uri).file("weights")) for _ in range(tries)
        ],
    }
    return [row(what, round(1000 * statistics.median(each), 1), "ms", "", None, True) for what, each in times.items()]


@contextmanager
def server() -> Iterator[str]:
    """The URL of a store: the one that the environment names, or one in a server that is started here."""
    given = os.environ.get("MISTUDIO_STORE", "")
    if os.environ.get("AWS_ENDPOINT_URL") and given.startswith("s3://"):
        yield f"{given.rstrip('/')}/bench-{uuid.uuid4().hex}"
        return
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as started:
        started.access.make_bucket("bench")
        os.environ.update(started.access.environment)
        yield f"s3://bench/{uuid.uuid4().hex}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The store in a bucket beside minio's own client.")
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only-memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_memory:
        sys.stdout.write(f"{only_memory(options.only_memory[0], Path(options.only_memory[1]))}\n")
        return
    with tempfile.TemporaryDirectory() as name, server() as url:
        os.environ["MISTUDIO_SCRATCH"] = f"{name}/scratch"
        source = Path(name) / "file"
        write_file(source, options.megabytes * 1_000_000)
        rows = [*speeds(url, source, options.pairs), *memory(url, source), *opening(url, Path(name), options.pairs)]
    publish("s3_store", "Store in a bucket", rows, describe_machine(), versions("minio", "urllib3", "tenacity"))


if __name__ == "__main__":
    main()
