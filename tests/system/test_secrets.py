"""Secrets planted in every place that takes one show in nothing that anybody can read."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streamer import keys
from streamer.client import Subscriber
from tests.daemon import free_port, wait_for
from tests.planted import RIGHT, Planted
from tests.rtsp_server import RtspServer, rtsp_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "there"),
    pytest.mark.slow,
]
ROOT = Path(__file__).resolve().parents[2]
STREAMER = (sys.executable, "-m", "streamer")


@pytest.fixture(scope="module")
def server(shared: Path) -> Iterator[RtspServer]:
    """Return a real camera that asks for a password."""
    clip = shared / "video" / "single_face.mp4"
    user, _, password = RIGHT.partition(":")
    with RtspServer({"cam": clip}, user=user, password=password) as started:
        yield started


@pytest.fixture
def planted(server: RtspServer, shared: Path, tmp_path: Path) -> Planted:
    """Return the secrets and their configuration's maker."""
    return Planted(tmp_path, shared, server.url("cam", credentials=False))


@contextmanager
def running(
    arguments: tuple[object, ...], log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with all it prints in a file; killed at the end."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [str(word) for word in arguments],
            stdout=out,
            stderr=out,
            env=os.environ | environment,
            cwd=ROOT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def ask(planted: Planted, path: str, token: str = "") -> bytes:
    """Return status, headers and body of an answer of the daemon's web server; streams are cut."""
    context = ssl.create_default_context(cafile=str(planted.folder / "tls.pem"))
    port = planted.ports[2]
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        head = f"{answer.status}\n{answer.headers}".encode()
        body = b"".join(answer.read1() for _ in range(8)) if "live" in path else answer.read()
        return head + body
    finally:
        connection.close()


def heard(planted: Planted, topics: int) -> bytes:
    """Return events of a number of topics as they come, and the snapshot, as a known client."""
    events, snapshot, _ = planted.ports
    with Subscriber(
        connect=f"tcp://127.0.0.1:{events}",
        snapshot=f"tcp://127.0.0.1:{snapshot}",
        server_key=keys.load_public(planted.folder / "server" / "server.key"),
        keys=keys.load_pair(planted.folder / "clients" / "client.key_secret"),
    ) as subscriber:
        assert subscriber.wait_connected(20)
        raw: dict[str, bytes] = {}
        end_s = time.monotonic() + 30
        while len(raw) < topics and time.monotonic() < end_s:
            event = subscriber.receive(0.5)
            if event is not None:
                raw[event.topic] = event.topic.encode() + event.raw
        assert len(raw) >= topics, sorted(raw)
        return b"\n".join(raw.values()) + repr(subscriber.snapshot()).encode()


def drained(manager: socket.socket) -> bytes:
    """Return what systemd has been told since the last call."""
    told = b""
    with contextlib.suppress(TimeoutError):
        while True:
            told += manager.recv(4096) + b"\n"
    return told


def test_the_search_finds_what_is_planted(planted: Planted) -> None:
    """The files hold every secret, and the search says so: it can fail."""
    config = planted.write().read_text()
    in_files = {"File", "HttpToken", "TlsKey", "Curveserver", "Curveclient"}
    in_urls = {"Right", "Wrong", "Special", "Username", "Query", "Pwd", "Path"}
    assert planted.leaks(config) == in_urls | {"Http", "Apikey", "Maker", "Tls", "Nameless"}
    assert set(planted.secrets) - planted.leaks(config) == in_files
    for file in ("camera", "token", "tls.key", "server/server.key_secret"):
        assert planted.leaks((planted.folder / file).read_text())


@pytest.mark.parametrize("form", ["json", "console", "auto"])
def test_a_daemon_shows_none_of_them(planted: Planted, form: str) -> None:
    """Neither in its logs, events, snapshot, web pages, metrics nor in what systemd is told."""
    config = planted.write(form=form)
    log, told = planted.folder / "log", planted.folder / "notify"
    log.touch()
    status = log.stat()
    journal = f"{status.st_dev}:{status.st_ino}"  # as if the journal read the file
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(told))
        manager.settimeout(0.1)
        environment = {"NOTIFY_SOCKET": str(told), "JOURNAL_STREAM": journal}
        environment |= {"WATCHDOG_USEC": "2000000"}
        with running((*STREAMER, "run", "--config", config), log, **environment) as process:
            wait_for(lambda: "daemon_started" in log.read_text(), 60, "the start")
            seen = heard(planted, topics=3)
            token = (planted.folder / "token").read_text()
            paths = ["/", "/metrics", "/api/cameras", "/api/cameras/wrong", "/api/version"]
            for path in (*paths, "/livez", "/readyz", "/api/live?width=320", "/nothing"):
                answer = ask(planted, path, token)
                assert answer.startswith((b"200", b"404")), answer[:200]
                assert not planted.leaks(answer), path
            for answer in (ask(planted, f"/?token={token}"), ask(planted, "/", token[:-1])):
                assert not planted.leaks(answer)
            statuses = drained(manager)  # it holds ten messages, and the daemon never waits
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            statuses += drained(manager)
    assert b"STATUS=" in statuses
    assert b"STOPPING=1" in statuses
    text = log.read_text()
    reasons = ("auth_failed", "connection_refused", "name_resolution")
    assert all(reason in text for reason in reasons), text
    assert text.startswith("<") == (form == "auto")
    for written in (seen, statuses, text):
        assert not planted.leaks(written)


CRASH = """
import sys
import threading
from streamer import app, capture, cli
from streamer.engine import onnx

def broken(self, *_args, **_kwargs):
    raise RuntimeError(f"cannot go on with {ADDRESS} and {{'password': 'x'}}")

class Ends:
    __del__ = broken
    __bool__ = lambda self: False

ADDRESS = sys.argv.pop(1)
place = sys.argv.pop(1)
if place == "reader":
    capture.MediaSource.read = broken
elif place == "engine":
    whole = onnx.OnnxEngine.run
    def fails(self, inputs):
        return (broken if threading.current_thread().name == "compute" else whole)(self, inputs)
    onnx.OnnxEngine.run = fails
elif place == "main":
    app.supervise = broken
elif place == "web":
    app.Service.cameras = broken
elif place == "unraisable":
    real = app.supervise
    app.supervise = lambda *args, **more: Ends() and None or real(*args, **more)
sys.argv[0] = "streamer"
cli.main()
"""


@pytest.mark.parametrize("place", ["reader", "engine", "main", "web", "unraisable", "abort"])
def test_a_crash_shows_none_of_them(planted: Planted, place: str) -> None:
    """A bug in any thread is told with its traceback, and without the address it quotes."""
    config = planted.write(curve=False)
    log = planted.folder / "log"
    address = planted.cameras()["right"][0] + "/?token=QzCrash7Plant"
    planted.plant("Crash", "QzCrash7Plant")
    arguments = (sys.executable, "-X", "faulthandler", "-c", CRASH, address, place)
    with running((*arguments, "run", "--config", config), log) as process:
        if place in {"web", "unraisable", "abort"}:
            wait_for(lambda: "camera_online" in log.read_text(), 60, "a camera")
            token = (planted.folder / "token").read_text()
            answer = ask(planted, "/api/cameras", token)
            assert answer.startswith(b"500" if place == "web" else b"200")
            assert not planted.leaks(answer)
            process.send_signal(signal.SIGABRT if place == "abort" else signal.SIGTERM)
            assert process.wait(15) == (-signal.SIGABRT if place == "abort" else 0)
        else:
            assert process.wait(60) == 1
    text = log.read_text()
    if place == "abort":
        assert "Fatal Python error: Aborted" in text
    else:
        assert "RuntimeError: cannot go on with rtsp://***@" in text
        assert "Traceback" in text
    assert not planted.leaks(text)


def run(*arguments: object, code: int) -> str:
    """Run a command to its end and return all it printed."""
    done = subprocess.run(
        [*STREAMER, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "400"},  # no address is cut
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_check_probe_shows_none_of_them(planted: Planted) -> None:
    """Eleven cameras and why nine of them cannot be seen."""
    text = run("check", "--probe", "--config", planted.write(), code=1)
    assert "auth_failed" in text
    assert "rtsp://***@127.0.0.1:9/s" in text
    assert not planted.leaks(text)


@pytest.mark.timeout(300)
def test_the_tools_show_none_of_them(planted: Planted, shared: Path, tmp_path: Path) -> None:
    """What `analyse`, `bench`, `demo` and `run` print of a configuration or an address."""
    config = planted.write()
    clip = shared / "video" / "single_face.mp4"
    out = tmp_path / "out"
    bench = ("bench", "--video", clip, "--cameras", "1", "--seconds", "1")
    address, _ = planted.cameras()["encoded"]
    texts = [
        run("analyse", clip, "--out", out, "--config", config, code=0),
        run(*bench, "--config", config, "--json", tmp_path / "bench.json", code=0),
        run("demo", "--camera", address, "--seconds", "3", code=0),
        run("analyse", address, "--out", out, code=78),
        run("run", "--config", address, code=78),
        run("check", "--config", address, code=78),
    ]
    texts += [path.read_text(errors="replace") for path in out.rglob("*") if path.is_file()]
    texts += [str(path) for path in out.rglob("*")]
    texts.append((tmp_path / "bench.json").read_text())
    for text in texts:
        assert not planted.leaks(text), text


@pytest.mark.timeout(300)
def test_a_refused_configuration_shows_none_of_them(planted: Planted) -> None:
    """Mistakes around a secret: the line that refuses the file does not quote it."""
    text = planted.write().read_text()
    wrong = re.search(r"rtsp://op:QzWrong\w+", text)
    token = (planted.folder / "token").read_text()
    assert wrong is not None
    for old, new in (
        (f'url = "{wrong[0]}', f'uri = "{wrong[0]}'),  # a key that is not known
        (f'url = "{wrong[0]}', f'url = ["{wrong[0]}"]\nname2 = "'),  # a list
        (wrong[0], wrong[0].replace("rtsp", "rtps")),  # a scheme that is not known
        (wrong[0], wrong[0].removeprefix("rtsp://")),  # no scheme
        (wrong[0] + "@127.0.0.1", wrong[0] + "@[127.0.0.1"),  # no address
        (wrong[0] + "@127.0.0.1:", wrong[0] + "@127.0.0.1:x"),  # no port
        (f'url = "{wrong[0]}', f'url = {wrong[0]}"'),  # no TOML
        (str(planted.folder / "token"), token),  # the secret where its file should be named
        (str(planted.folder / "camera"), planted.plant("Inline", "op:QzInline7Plant")),
        (str(planted.folder / "tls.key"), str(planted.folder / "server/server.key_secret")),
        (str(planted.folder / "server/server.key_secret"), planted.secrets["Curveserver"][0]),
    ):
        assert old in text
        config = planted.secret_file("bad.toml", text.replace(old, new, 1))
        told = run("check", "--config", config, code=78)
        assert not planted.leaks(told), (new, told)
    readable = planted.secret_file("readable.toml", text)
    readable.chmod(0o644)
    assert not planted.leaks(run("check", "--config", readable, code=78))


def test_the_relays_show_none_of_them(planted: Planted, tmp_path: Path) -> None:
    """`record`, `watch` and the bridge: their own keys, and the password of the broker."""
    config = planted.write()
    log = planted.folder / "log"
    out = tmp_path / "recorded"
    events = f"tcp://127.0.0.1:{planted.ports[0]}"
    pair = planted.curve("clients", "client")
    public = planted.folder / "server" / "server.key"
    own = ("--connect", events, "--client-key", pair, "--server-key", public)
    password = planted.secret_file("mqtt", planted.plant("Mqtt"))
    nowhere = f"mqtt://op@127.0.0.1:{free_port()}"
    logs = {name: tmp_path / name for name in ("record.log", "watch.log", "bridge.log")}
    bridge = (*STREAMER, "bridge", "mqtt", "--broker", nowhere, "--password-file", password)
    with (
        running((*STREAMER, "run", "--config", config), log),
        running((*STREAMER, "record", "--out", out, *own), logs["record.log"]),
        running((*STREAMER, "watch", "--json", *own), logs["watch.log"]) as watch,
        running((*bridge, *own), logs["bridge.log"]) as bridging,
    ):
        wait_for(lambda: "emotion.sample" in logs["watch.log"].read_text(), 60, "a sample")
        wait_for(logs["bridge.log"].read_text, 20, "the bridge's complaint")
        time.sleep(2.0)  # the recorder writes once a second
        watch.send_signal(signal.SIGINT)
        bridging.send_signal(signal.SIGTERM)
    written = [path.read_bytes() for path in out.iterdir()]
    assert any(b"emotion.sample" in content for content in written)
    for content in (*written, *(path.read_bytes() for path in logs.values())):
        assert not planted.leaks(content)
    typed = f"mqtt://op:{planted.plant('Typed')}@127.0.0.1"
    assert not planted.leaks(run("bridge", "mqtt", "--broker", typed, *own, code=78))
