import csv
import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.errors import InputError
from mistudio.monitor.records import Exchange
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.parquet_source import RecordedTraffic
from mistudio.monitor.traffic.recorder import EventRecorder
from tests.support.logged_events import NOW, event

ASKED = b'{"model": "m", "prompt": "Once"}'
ANSWERED = b'{"choices": [{"index": 0, "text": " upon"}]}'
# As Arrow's Go writer of KServe 0.16 and 0.17 has it.
MAPS = pa.schema(
    [(name, pa.string()) for name in ("url",)]
    + [("bytes", pa.binary())]
    + [(name, pa.string()) for name in ("content_type", "req_type", "id", "source_uri", "inference_service")]
    + [(name, pa.string()) for name in ("namespace", "component", "endpoint")]
    + [("metadata", pa.map_(pa.string(), pa.list_(pa.string()))), ("annotations", pa.map_(pa.string(), pa.string()))]
    + [("cert_name", pa.string()), ("tls_skip_verify", pa.bool_())]
)


def snake(kind: str, body: bytes, id_: str = "1") -> dict[str, Any]:
    return {
        "url": "s3://bucket/prefix",
        "bytes": body,
        "content_type": "application/json",
        "req_type": f"org.kubeflow.serving.inference.{kind}",
        "id": id_,
        "source_uri": "http://localhost:9081/",
        "inference_service": "tinyllama",
        "namespace": "default",
        "component": "predictor",
        "endpoint": "canary",
        "metadata": {"X-Tenant": ["acme"]},
        "annotations": None,
        "cert_name": "",
        "tls_skip_verify": False,
    }


def flat(kind: str, body: bytes, id_: str = "1") -> dict[str, Any]:
    """The row of later versions, whose values are texts."""
    row = snake(kind, body, id_) | {
        "bytes": b64encode(body).decode(),
        "metadata": '{"X-Tenant":["acme"]}',
        "annotations": "",
    }
    names = {name: name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:]) for name in row}
    return {names[name]: value for name, value in row.items()}


def go(kind: str, body: bytes, id_: str = "1") -> dict[str, Any]:
    """The row as Go writes the struct in JSON."""
    row = {"".join(part.title() for part in name.split("_")): value for name, value in snake(kind, b"", id_).items()}
    source = {"Scheme": "http", "Opaque": "", "User": None, "Host": "localhost:9081", "Path": "/"}
    return row | {"Bytes": b64encode(body).decode(), "SourceUri": source, "Url": None}


def write(folder: Path, form: str, rows: Any, name: str = "1-request") -> Path:
    """A batch as the logger writes it; ``rows`` makes a row of a kind and a body."""
    if form == "parquet-maps":
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([snake(*row) for row in rows], MAPS), path, compression="snappy")
    elif form == "parquet-texts":
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([flat(*row) for row in rows]), path)
    elif form == "json":
        path = folder / f"{name}.json"
        path.write_text(json.dumps([go(*row) for row in rows]))
    else:
        path = folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            made = [flat(*row) for row in rows]
            if form == "csv-go":  # of the first version, which splits addresses and writes bytes as JSON
                made = [go(*row) | {"SourceUri.Host": "h", "SourceUri": None} for row in rows]
                made = [
                    row | {"Bytes": json.dumps(row["Bytes"]), "Metadata": json.dumps(row["Metadata"])} for row in made
                ]
            writer = csv.DictWriter(file, list(made[0]))
            writer.writeheader()
            writer.writerows(made)
    return path


FORMS = ["parquet-maps", "parquet-texts", "json", "csv", "csv-go"]


def exchanges(traffic: RecordedTraffic) -> list[Exchange]:
    return list(traffic.exchanges())


@pytest.mark.parametrize("form", FORMS)
def test_every_format_of_the_logger_gives_the_same_exchanges(tmp_path: Path, form: str) -> None:
    write(tmp_path, form, [("request", ASKED), ("response", ANSWERED)])
    traffic = RecordedTraffic(str(tmp_path), TrafficSettings(tenant_header="X-Tenant"))
    (found,) = exchanges(traffic)
    assert [(each.content, each.reply_from) for each in found.samples] == [("Once upon", 4)]
    origin = found.origin
    assert (origin.model, origin.namespace, origin.endpoint, origin.tenant) == (
        "tinyllama",
        "default",
        "canary",
        "acme",
    )
    assert found.time == (tmp_path / os.listdir(tmp_path)[0]).stat().st_mtime
    assert traffic.joined == {"joined": 1}
    assert traffic.notes == []


def test_files_are_read_in_the_order_of_their_times_and_halves_of_several_are_joined(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        for place, (kind, body) in enumerate([("request", ASKED), ("response", ANSWERED)]):
            path = write(tmp_path, "json", [(kind, body, f"id-{number}")], f"{number}-{kind}")
            os.utime(path, (NOW + 10 * number + place, NOW + 10 * number + place))
    (tmp_path / "deep").mkdir()
    os.utime(write(tmp_path / "deep", "parquet-maps", [("request", ASKED, "last")]), (NOW + 99, NOW + 99))
    traffic = RecordedTraffic(str(tmp_path), TrafficSettings(join_timeout_s=0.5))
    found = exchanges(traffic)
    assert [each.id for each in found] == ["id-0", "id-1", "id-2", "last"]
    assert [each.time for each in found] == [NOW, NOW + 10, NOW + 20, NOW + 99]
    assert [each.is_whole for each in found] == [True, True, True, False]


def test_what_cannot_be_read_is_counted_with_a_few_words_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, "json", [("request", ASKED), ("response", ANSWERED), ("other", b"")], "good")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1" + bytes(50))
    (tmp_path / "torn.json").write_text("[{")
    (tmp_path / "rows.json").write_text(json.dumps([7, go("request", b"") | {"Bytes": "no base64!"}]))
    (tmp_path / "lines.jsonl").write_text('{"specversion": "1.0"}\nno JSON\n')
    (tmp_path / "notes.txt").write_text("not read")
    traffic = RecordedTraffic(str(tmp_path))
    assert [each.id for each in exchanges(traffic)] == ["1"]
    assert traffic.counts == {
        "files": 5, "events": 2, "exchanges": 1, "broken_file": 2, "broken_row": 4, "other_type": 1
    }  # fmt: skip
    assert len(traffic.notes) == 7
    assert any(each.startswith("torn.parquet, it is not a whole Parquet file") for each in traffic.notes)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for each in (outside, inside):
        each.mkdir()
        write(each, "json", [("request", ASKED, each.name)], each.name)
    (inside / "link.json").symlink_to(outside / "outside.json")
    (inside / "folder").symlink_to(outside)
    assert [each.id for each in exchanges(RecordedTraffic(str(inside)))] == ["inside"]


def test_no_traffic_is_an_error(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no recorded traffic"):
            RecordedTraffic(str(where))


@pytest.mark.parametrize("where", ["", "gs://bucket/prefix", "s3://", "~nobody-of-this-name/x"])
def test_an_address_that_is_none_is_refused(where: str) -> None:
    with pytest.raises(InputError):
        RecordedTraffic(where)


def test_what_was_recorded_here_is_read_as_it_came(tmp_path: Path) -> None:
    recorder = EventRecorder(tmp_path / "kept")
    sent = [
        event("request", bytes(range(256)), "1", **{"ce-metadata": '{"X":["ü"]}'}),
        event("response", ANSWERED, "1"),
    ]
    for each in sent:
        recorder.record(each)
    recorder.close()
    again = EventRecorder(tmp_path / "kept")
    again.record(event("request", ASKED, "2"))
    again.close()
    traffic = RecordedTraffic(str(tmp_path / "kept"))
    found = exchanges(traffic)
    assert [each.id for each in found] == ["1", "2"]
    assert traffic.problems == {"not_json": 1}
    assert found[0].time == pytest.approx(sent[0].time, abs=1e-5)
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0
    assert all(each.stat().st_mode & 0o077 == 0 for each in (tmp_path / "kept").iterdir())


def test_recorded_events_are_the_same_events(tmp_path: Path) -> None:
    recorder = EventRecorder(tmp_path)
    sent = event("request", bytes(range(256)), "1", **{"ce-endpoint": "canary", "ce-time": "2026-11-30T00:53:20.5Z"})
    recorder.record(sent)
    recorder.close()
    traffic = RecordedTraffic(str(tmp_path))
    (joined,) = traffic._all_joined()
    assert joined.request == sent


def test_recorded_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    recorder = EventRecorder(tmp_path, max_file_bytes=1000, max_files=3)
    for number in range(30):
        recorder.record(event("request", ASKED, f"{number:02}"))
    recorder.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(each.stat().st_size < 2000 for each in files)
    ids = [json.loads(line)["id"] for each in files for line in each.read_text().splitlines()]
    assert ids == [f"{number:02}" for number in range(30 - len(ids), 30)]


def test_half_an_exchange_times_out_by_the_times_of_its_events(tmp_path: Path) -> None:
    recorder = EventRecorder(tmp_path)
    for second, (kind, id_) in enumerate([("request", "lost"), ("request", "1"), ("response", "1"), ("request", "2")]):
        recorder.record(event(kind, ASKED, id_, **{"ce-time": f"2026-11-30T00:53:{second * 6:02}Z"}))  # type: ignore[arg-type]
    recorder.close()
    traffic = RecordedTraffic(str(tmp_path), TrafficSettings(join_timeout_s=10))
    assert [each.id for each in exchanges(traffic)] == ["lost", "1", "2"]


@pytest.mark.usefixtures("s3_url")
def test_a_bucket_is_read_like_a_folder(tmp_path: Path, s3_url: str) -> None:
    from mistudio.artifacts.s3.address import endpoint, parse_address, region
    from mistudio.artifacts.s3.limits import Limits
    from mistudio.artifacts.s3.requests import Requests

    address = parse_address(s3_url)
    requests = Requests(address, endpoint(), region(), Limits())
    for form in ("parquet-maps", "json"):
        path = write(tmp_path, form, [("request", ASKED, form), ("response", ANSWERED, form)], form)
        requests.put(address.key(f"default/tinyllama/predictor/{path.name}"), path.read_bytes(), "write")
    requests.put(address.key("default/tinyllama/predictor/readme.txt"), b"not read", "write")
    found = exchanges(RecordedTraffic(f"{s3_url}/default/tinyllama"))
    assert sorted(each.id for each in found) == ["json", "parquet-maps"]
    with pytest.raises(InputError, match="no recorded traffic"):
        RecordedTraffic(f"{s3_url}/default/tiny")


def test_the_command_shows_texts_and_counts(tmp_path: Path) -> None:
    write(tmp_path, "json", [("request", ASKED), ("response", ANSWERED), ("request", b"[0.5]", "2")])
    (tmp_path / "names").write_text('{"text": ["frage"]}')
    done = CliRunner().invoke(app, ["monitor", "read", str(tmp_path), "--tenant-header", "x-tenant"])
    assert done.exit_code == 0, done.output
    assert "1  default/tinyllama/canary of acme  Once  ->  upon\n" in done.stdout
    assert "joined: 1 joined, 1 request alone\n" in done.stdout
    assert "not read: 1 no text\n" in done.stdout
    arguments = ["monitor", "read", str(tmp_path), "--json", "--lines", "0", "--fields", str(tmp_path / "names")]
    done = CliRunner().invoke(app, arguments)
    content = json.loads(done.stdout)
    assert content["read"] == {"files": 1, "events": 3, "exchanges": 1, "nothing_to_watch": 1, "texts": 1}
    assert content["shown"] == []
