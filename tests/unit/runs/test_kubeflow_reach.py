"""How Kubeflow is reached: addresses, tokens that expire, certificates, a kubeconfig, and everything that says no."""

import base64
import itertools
import json
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.errors import ClusterError, ClusterUnreachable, ConfigError, InputError, MistudioError, NotAllowed
from mistudio.runs import KubeflowRunner, Target
from mistudio.runs.checkout import cluster_functions
from mistudio.runs.connection import Connection, connection
from tests.support.kfp_api import KfpServer
from tests.support.kfp_api.server import Fault
from tests.support.kfp_api.state import StoredRun
from tests.unit.runs.conftest import NAMESPACE, TOKEN

INTERPRET = Target(kind="pipeline", name="interpret")
PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
NEW_TOKEN = "another-token-9876543210"


def runner(where: Connection | None = None) -> KubeflowRunner:
    """A runner that does not wait long between two tries."""
    where = where or connection()
    return KubeflowRunner(where, cluster=cluster_functions().KfpCluster(where, pause_s=0.01))


def why(server: KfpServer, *faults: Fault) -> MistudioError:
    server.faults = list(faults)
    with pytest.raises(MistudioError) as raised:
        runner().list()
    return raised.value


def rpc(message: str) -> bytes:
    return json.dumps({"error": message, "code": 2, "message": message, "details": []}).encode()


@pytest.mark.usefixtures("own_environment")
class TestAddress:
    def test_flags_win_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "kubeflow.example.org/pipeline/")
        assert connection().host == "https://kubeflow.example.org/pipeline"
        monkeypatch.setenv("MISTUDIO_KFP_HOST", "https://own.example.org")
        assert connection().host == "https://own.example.org"
        assert connection(host="http://localhost:8888").host == "http://localhost:8888"

    @pytest.mark.parametrize(
        "host",
        [
            "ftp://example.org", "https://", "file:///etc/passwd", "https://[::1", "https://example.org:99999",
            "https://example.org/?a=b", "https://ada:of-ada-alone@example.org",
        ],
    )  # fmt: skip
    def test_what_is_no_address_is_refused(self, host: str) -> None:
        with pytest.raises(ConfigError, match="is no address") as refused:
            connection(host=host)
        assert "of-ada-alone" not in str(refused.value)

    def test_a_token_is_not_sent_for_all_to_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MISTUDIO_KFP_TOKEN", TOKEN)
        for host in ("kubeflow.example.org", "8.8.8.8", "134744072", "0x8080808", "[2001:4860:4860::8888]:8888"):
            with pytest.raises(ConfigError, match="has no TLS"):
                connection(host=f"http://{host}")
        for host in ("localhost:8080", "[::1]:8080", "ml-pipeline:8888", "ml-pipeline.kubeflow.svc.cluster.local:8888"):
            assert connection(host=f"http://{host}").token

    def test_nothing_listens_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with pytest.raises(ClusterUnreachable, match="cannot be reached: .*refused.* Is the address right"):
                runner(connection(host=f"http://127.0.0.1:{free.getsockname()[1]}")).list()

    def test_there_is_no_address_at_all(self) -> None:
        with pytest.raises(InputError, match="give --host, or set MISTUDIO_KFP_HOST"):
            runner()


class TestAnswers:
    def test_a_server_that_is_busy_is_asked_again(self, server: KfpServer) -> None:
        server.faults = [Fault(503), Fault(429), Fault(502, methods=("GET",))]
        assert runner().list() == []
        assert [asked.status for asked in server.asked] == [503, 429, 502, 200]

    def test_a_run_is_not_started_twice_where_the_first_answer_got_lost(self, server: KfpServer) -> None:
        started = runner()
        started.start(INTERPRET, {})
        posts = [asked for asked in server.asked if asked.method == "POST"]
        server.faults = [Fault(504, methods=("POST",))]
        with pytest.raises(ClusterUnreachable, match="cannot answer now"):
            started.start(INTERPRET, {})
        assert len([asked for asked in server.asked if asked.method == "POST"]) == len(posts) + 1
        server.faults = [Fault(503, methods=("POST",))]  # this one was not taken
        started.start(INTERPRET, {})
        assert len(server.state.runs) == 2

    @pytest.mark.parametrize(
        ("fault", "kind", "message"),
        [
            (Fault(401, content=rpc("no user")), NotAllowed, "does not know who asks .401.: .*--token-file"),
            (Fault(403, content=rpc("User 'x' may not")), NotAllowed, "namespace mistudio-data .403; runs.: User 'x'"),
            (Fault(400, content=rpc("bad filter")), ClusterError, "refuses this runs .400.: bad filter"),
            (Fault(500, content=b"<h1>Oh</h1> no"), ClusterError, "refuses this runs .500.: Oh no"),
            (Fault(200, content=b"<html>Sign in</html>", kind="text/html"), NotAllowed, "page to sign in"),
            (Fault(302, location="https://dex.example.org/auth"), NotAllowed, "page to sign in"),
        ],
    )
    def test_each_way_of_saying_no_has_its_words(
        self, server: KfpServer, fault: Fault, kind: type[MistudioError], message: str
    ) -> None:
        error = why(server, fault._replace(methods=("GET",)))
        assert type(error) is kind
        assert error.exit_code == 2
        assert re.search(message, str(error)), str(error)

    def test_no_redirect_is_followed_with_the_token(self, server: KfpServer) -> None:
        with KfpServer() as other:
            why(server, Fault(302, location=f"{other.url}/apis/v2beta1/runs"))
            assert other.asked == []

    def test_a_namespace_of_others_is_refused(self, server: KfpServer) -> None:
        with pytest.raises(NotAllowed, match="in namespace kubeflow .403"):
            runner(connection(namespace="kubeflow")).list()

    def test_a_token_that_the_server_repeats_is_not_shown(self, server: KfpServer) -> None:
        error = why(server, Fault(400, content=rpc(f"cannot parse {TOKEN}")))
        assert TOKEN not in str(error)

    def test_a_server_of_one_user_takes_no_namespace(
        self, own_environment: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with KfpServer() as single:
            monkeypatch.setenv("MISTUDIO_KFP_HOST", single.url)
            runner().start(INTERPRET, {})
            assert len(single.state.runs) == 1
            assert all(asked.token == "" for asked in single.asked)


@pytest.fixture
def keyring(server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server that lets in whoever has the token of a file."""
    monkeypatch.delenv("MISTUDIO_KFP_TOKEN")
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def change_token(server: KfpServer) -> None:
    server.tokens = {NEW_TOKEN: {NAMESPACE}}


def printing(tmp_path: Path, keyring: Path) -> str:
    """A command that prints the token, and counts how often it was run."""
    script = tmp_path / "print token"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'count')!r}, 'a').write('x')\n"
        f"sys.stderr.write('hint: {TOKEN}')\nprint(open(sys.argv[1]).read())\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"'{script}' '{keyring}'"


class TestTokens:
    def test_a_file_that_was_written_anew_is_read_again(self, server: KfpServer, keyring: Path) -> None:
        asking = runner(connection(token_file=keyring))
        asking.list()
        change_token(server)
        with pytest.raises(NotAllowed, match="give a token, or a newer one"):
            asking.list()
        keyring.write_text(NEW_TOKEN)
        asking.list()
        assert [asked.token for asked in server.asked] == [TOKEN, TOKEN, NEW_TOKEN]

    def test_a_file_that_changes_under_a_request_is_read_again(self, server: KfpServer, keyring: Path) -> None:
        asking = runner(connection(token_file=keyring))
        asking.list()
        change_token(server)
        tokens = asking.cluster._asker._tokens
        renew = tokens.renew

        def renewed() -> bool:
            keyring.write_text(NEW_TOKEN)
            return renew()

        tokens.renew = renewed
        asking.list()
        assert [asked.status for asked in server.asked] == [200, 401, 200]

    def test_a_command_is_run_once_and_again_when_its_token_has_expired(
        self, server: KfpServer, keyring: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        asking = runner(connection(token_command=printing(tmp_path, keyring)))
        asking.list()
        asking.list()
        assert (tmp_path / "count").read_text() == "x"
        change_token(server)
        keyring.write_text(NEW_TOKEN)
        asking.list()
        assert (tmp_path / "count").read_text() == "xx"
        assert [asked.token for asked in server.asked] == [TOKEN, TOKEN, TOKEN, NEW_TOKEN]
        assert capfd.readouterr() == ("", "")

    def test_a_command_whose_every_token_is_refused_is_run_twice(
        self, server: KfpServer, keyring: Path, tmp_path: Path
    ) -> None:
        keyring.write_text("stale")
        with pytest.raises(NotAllowed, match="401"):
            runner(connection(token_command=printing(tmp_path, keyring))).list()
        assert len(server.asked) == 2

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("no-such-program-at-all x", "no-such-program-at-all, cannot be run"),
            (f"{sys.executable} -c 'import sys; print(\"{TOKEN}\"); sys.exit(3)'", "ended with status 3"),
            (f"{sys.executable} -c 'print(\"two {TOKEN}\")'", "is no token"),
            (f"{sys.executable} -c pass", "is empty"),
            ("'unclosed", "cannot be read"),
            ("  ", "is empty"),
        ],
    )
    def test_a_command_that_gives_no_token_says_so_and_shows_nothing_of_it(
        self, server: KfpServer, keyring: Path, command: str, message: str
    ) -> None:
        with pytest.raises(MistudioError) as raised:
            runner(connection(token_command=command)).list()
        assert message in str(raised.value)
        assert TOKEN not in str(raised.value)
        assert server.asked == []

    def test_no_shell_reads_the_command(self, server: KfpServer, keyring: Path, tmp_path: Path) -> None:
        with pytest.raises(NotAllowed):
            runner(connection(token_command=f"/bin/echo {TOKEN}; touch {tmp_path}/made")).list()
        assert not (tmp_path / "made").exists()

    def test_in_a_pod_the_token_of_its_service_account_is_sent(
        self, server: KfpServer, keyring: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mistudio.runs import connection as module

        monkeypatch.setattr(module, "POD_TOKEN", keyring)
        assert runner().list() == []
        assert [asked.token for asked in server.asked] == [TOKEN]
        elsewhere = connection(host="https://kubeflow.example.org")
        assert not elsewhere.tokens().current()

    def test_in_a_pod_the_address_is_that_of_its_own_cluster(
        self, keyring: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import pipelines._asking as asking

        monkeypatch.setattr(asking, "_POD_ACCOUNT", tmp_path)  # the file called token is there
        monkeypatch.delenv("MISTUDIO_KFP_HOST")
        assert asking.Asker(connection()).host == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"

    def test_two_tokens_are_one_too_many(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="leave one out"):
            connection(token_file=tmp_path, token_command="x")

    def test_files_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        for option in ("token_file", "ca_file"):
            with pytest.raises(ConfigError, match="is no file"):
                connection(host="https://example.org", **{option: tmp_path / "none"})

    def test_no_output_of_any_command_has_the_token(self, server: KfpServer) -> None:
        run_id = runner().start(INTERPRET, {}).id
        server.run.become("FAILED", f"the pod said {TOKEN}")
        for arguments in (
            ["status", run_id],
            ["status", run_id, "--json"],
            ["result", run_id, "--json"],
            ["runs", "list", "--on", "kubeflow", "--json"],
            ["logs", run_id, "--json"],
            ["cancel", run_id],
            ["retry", run_id],
        ):
            done = CliRunner().invoke(app, arguments)
            assert TOKEN not in done.output + str(done.exception)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that no authority has signed, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", folder / "key", "-out", folder / "certificate", "-days", "2", "-subj", "/CN=kubeflow"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    (folder / "both").write_text((folder / "certificate").read_text() + (folder / "key").read_text())
    return folder


@pytest.fixture
def secure(own_environment: None, certificate: Path) -> Iterator[KfpServer]:
    with KfpServer(tokens={TOKEN: set()}, certificate=certificate / "both", prefix=PROXY) as started:
        yield started


class TestTls:
    def test_an_unknown_certificate_is_not_trusted(self, secure: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MISTUDIO_KFP_TOKEN", TOKEN)
        with pytest.raises(ClusterUnreachable, match="its certificate is not trusted"):
            runner(connection(host=secure.url)).list()
        assert secure.asked == []

    def test_it_is_with_the_authority_that_is_given(
        self, secure: KfpServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MISTUDIO_KFP_TOKEN", TOKEN)
        assert runner(connection(host=secure.url, ca_file=certificate / "certificate")).list() == []

    def test_a_kubeconfig_leads_through_the_clusters_own_api(
        self, secure: KfpServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = base64.b64encode((certificate / "certificate").read_bytes()).decode()
        cluster = {"server": secure.url.removesuffix(PROXY), "certificate-authority-data": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "other",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        assert runner(connection(context="lab")).list() == []
        assert [(asked.token, asked.status) for asked in secure.asked] == [(TOKEN, 200)]
        with pytest.raises(InputError, match="no kubeconfig to take it from"):
            runner(connection(context="none"))


def test_a_server_that_goes_away_while_a_run_is_followed_is_waited_for(server: KfpServer) -> None:
    asking = runner()
    run = asking.start(INTERPRET, {})
    looks = itertools.count()

    def look(run: StoredRun) -> None:
        turn = next(looks)
        if turn == 1:
            server.faults = [Fault(503, times=3)]
        elif turn == 3:
            run.become("SUCCEEDED")

    server.before_get = look
    assert list(asking.events(run.id, follow=True)) == []
    assert asking.get(run.id).state == "finished"
    assert [asked.status for asked in server.asked].count(503) == 3


def test_the_options_of_every_command_lead_there(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = runner().start(INTERPRET, {}).id
    for name in ("MISTUDIO_KFP_HOST", "MISTUDIO_KFP_TOKEN", "MISTUDIO_KFP_NAMESPACE"):
        monkeypatch.delenv(name)
    options = ["--host", server.url, "--namespace", NAMESPACE, "--token-command", f"echo {TOKEN}"]
    for arguments in (["status", run_id], ["runs", "list", "--on", "kubeflow"], ["runs", "show", run_id]):
        server.asked.clear()
        done = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
        assert done.exit_code == 0
        assert server.asked[-1].token == TOKEN
