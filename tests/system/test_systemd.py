"""The service under a real systemd: installed, started, broken and removed as operators do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import wait_for
from tests.nspawn import Machine, base_tree, hold_thread, nspawn_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
UNIT = "streamer.service"
CONFIG = "/etc/streamer/streamer.toml"
DROP_IN = "/etc/systemd/system/streamer.service.d/override.conf"
PASSWORD = "correct-horse-battery"  # noqa: S105 - a test's own
PRIORITIES = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
"""Of syslog, see syslog(3)."""
CAMERA = """
import base64, http.server
EXPECTED = "Basic " + base64.b64encode(b"viewer:{password}").decode()
class Camera(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != EXPECTED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic realm=camera")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(open("/clips/eat.mkv", "rb").read())
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Camera).serve_forever()
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first test makes a Debian and a package of 250 MB
    pytest.mark.skipif(bool(nspawn_missing()), reason=nspawn_missing() or "there"),
]


def configuration(*cameras: str, extra: str = "") -> str:
    """Return a configuration of looped clips."""
    tables = "".join(
        f'[[cameras]]\nname = "{name}"\nurl = "/clips/single_face.mp4"\nloop = true\n'
        for name in cameras
    )
    return f'{tables}[analysis]\nfps = 5.0\n[purpose]\ndeclared = "a test"\n{extra}'


def build_package(shared: Path, folder: Path) -> Path:
    """Build the Debian package as `make deb` does, compressed less."""
    subprocess.run(
        ["systemd/build-deb.sh", sys.executable, shared / "models", folder],
        cwd=ROOT,
        check=True,
        env=os.environ | {"DEB_LEVEL": "1"},
    )
    (package,) = folder.glob("*.deb")
    return package


def fetch_wheels(folder: Path) -> None:
    """Fetch what the installation script takes from the package index."""
    locks = [ROOT / "deploy" / "lock" / f"{name}.txt" for name in ("build", "service")]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--dest", folder, *(word for lock in locks for word in ("--requirement", lock))),
        ],
        check=True,
    )


def needed_packages() -> tuple[str, ...]:
    """Return what the package asks of Debian, and what the script needs to make an environment."""
    control = (ROOT / "systemd" / "debian" / "control").read_text()
    depends = control.partition("\nDepends: ")[2].partition("\n")[0]
    python = f"python3.{sys.version_info.minor}"
    names = (item.partition(" ")[0] for item in depends.split(", "))
    return (*(python if name == "@PYTHON@" else name for name in names), "python3-venv")


@pytest.fixture(scope="module")
def machine(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted Debian that has what the package depends on, and sees package, sources and clips."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the machine's Debian has Python 3.11, the package would be for another")
    folder = tmp_path_factory.mktemp("machine")
    packages = folder / "packages"
    with ThreadPoolExecutor() as pool:
        jobs: list[Future[Any]] = [
            pool.submit(build_package, shared, packages),
            pool.submit(fetch_wheels, packages / "wheels"),
        ]
        tree = base_tree(needed_packages())
        for job in jobs:
            job.result()
    seen = {
        packages: "/packages",
        shared / "models": "/models",
        shared / "video": "/clips",
        ROOT: "/src",
    }
    try:
        with Machine(tree, folder / "root", seen) as booted:
            yield booted
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """The machine with the package, no configuration and nothing that an operator changed."""
    if machine.run("dpkg-query", "--show", "emotion-streamer").returncode != 0:
        install(machine)
    machine.run("systemctl", "stop", UNIT)
    machine.path(CONFIG).unlink(missing_ok=True)
    shutil.rmtree(machine.path(DROP_IN).parent, ignore_errors=True)
    machine.ask("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", UNIT)
    return machine


@pytest.fixture
def service(installed: Machine) -> Machine:
    """The machine with the service started on one camera."""
    start(installed, configuration("lobby"))
    return installed


def install(machine: Machine) -> str:
    """Install the package; of several runs the last one upgrades."""
    return machine.ask(
        "sh", "-c", "dpkg --install --force-unsafe-io /packages/*.deb", timeout_s=240
    )


def configure(machine: Machine, text: str, path: str = CONFIG) -> None:
    """Write a configuration as the manual says: the service's account may read it."""
    machine.write(path, text, mode=0o640)
    machine.ask("chgrp", "streamer", path)


def start(machine: Machine, config: str, *, drop_in: str = "") -> None:
    """Start it with a configuration and, if need be, what `systemctl edit` would add."""
    configure(machine, config)
    if drop_in:
        machine.write(DROP_IN, f"[Service]\n{drop_in}")
        machine.ask("systemctl", "daemon-reload")
    machine.ask("systemctl", "start", UNIT)


def events(machine: Machine, topic: str, *, count: int = 3, options: str = "") -> list[Any]:
    """Return the next events that a subscriber of the machine gets; fail when none come."""
    watch = f"timeout 40 streamer watch --json --topic {topic} {options} | head -n {count}"
    said = [json.loads(line) for line in machine.ask("sh", "-c", watch).splitlines()]
    assert len(said) == count, journal(machine)[-20:]
    return said


def journal(machine: Machine) -> list[dict[str, Any]]:
    """Return what the journal has of the unit, from the daemon and from systemd."""
    lines = machine.ask("journalctl", f"--unit={UNIT}", "--output=json", "--no-pager").splitlines()
    return [json.loads(line) for line in lines]


def said(machine: Machine, pid: str) -> list[dict[str, Any]]:
    """Return what one process of the daemon logged, checked to be clean.

    Each line is one JSON object without colours, under the priority of its level.
    """
    entries = [entry for entry in journal(machine) if entry["_PID"] == pid]
    found = []
    for entry in entries:
        line = json.loads(entry["MESSAGE"])
        assert entry["PRIORITY"] == PRIORITIES[line["level"]], entry
        assert "\x1b" not in entry["MESSAGE"]
        assert "Traceback" not in entry["MESSAGE"]
        found.append(line)
    return found


def names(lines: list[dict[str, Any]]) -> list[str]:
    """Return what happened, in order."""
    return [line["event"] for line in lines]


def manager_says(machine: Machine, text: str) -> bool:
    """Tell whether systemd itself said this of the unit."""
    return any(e["_PID"] == "1" and text in e["MESSAGE"] for e in journal(machine))


def restarts(machine: Machine) -> int:
    """Return how often systemd has restarted it since it was started by hand."""
    return int(machine.show(UNIT, "NRestarts")["NRestarts"])


def main_pid(machine: Machine) -> str:
    """Return the daemon's process, as the machine numbers it."""
    return machine.show(UNIT, "MainPID")["MainPID"]


def cameras(machine: Machine) -> set[str]:
    """Return the cameras that the daemon has."""
    code = (
        "import json, urllib.request as r; "
        "print(r.urlopen('http://127.0.0.1:9108/api/cameras', timeout=9).read().decode())"
    )
    answer = json.loads(machine.ask("/opt/streamer/bin/python", "-c", code))
    return {camera["name"] for camera in answer["cameras"]}


def test_a_fresh_package_waits_for_its_configuration(installed: Machine) -> None:
    """Account, folders and unit are there; it is enabled, and starting it is no failure."""
    assert installed.ask("systemctl", "is-enabled", UNIT) == "enabled\n"
    installed.ask("systemctl", "start", UNIT)
    keys = ("ActiveState", "Result", "ConditionResult", "NRestarts")
    assert installed.show(UNIT, *keys) == {
        "ActiveState": "inactive",
        "Result": "success",
        "ConditionResult": "no",
        "NRestarts": "0",
    }
    rights = installed.ask(
        "stat", "--format=%U:%G %a %n", "/etc/streamer", "/etc/streamer/secrets"
    ).splitlines()
    assert rights == ["root:streamer 750 /etc/streamer", "root:root 700 /etc/streamer/secrets"]
    assert installed.ask("dpkg", "--verify", "emotion-streamer") == ""


def test_it_is_active_when_it_is_ready_and_events_come(service: Machine) -> None:
    """`systemctl start` returns after READY; a subscriber gets samples; there are no rights."""
    pid = main_pid(service)
    assert "daemon_started" in names(said(service, pid))
    keys = ("Type", "ActiveState", "SubState", "User", "WatchdogUSec", "NRestarts")
    assert service.show(UNIT, *keys) == {
        "Type": "notify",
        "ActiveState": "active",
        "SubState": "running",
        "User": "streamer",
        "WatchdogUSec": "30s",
        "NRestarts": "0",
    }
    samples = events(service, "emotion.sample/lobby/")
    assert [sample["type"] for sample in samples] == ["emotion.sample"] * 3
    status = service.ask("cat", f"/proc/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapBnd"] == "0" * 16
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")  # 2: a filter, see proc(5)
    account = service.ask("id", "--user", "streamer").strip()
    assert set(fields["Uid"].split()) == {account}
    # Nothing was written but what the daemon says: no identifier, no cache of a library.
    assert service.ask("find", "/var/lib/streamer", "-type", "f") == ""


def test_reload_takes_cameras_and_refuses_a_bad_file(service: Machine) -> None:
    """Added, kept when the file is bad, removed: all in one process, whose events go on."""
    pid = main_pid(service)
    (before,) = events(service, "emotion.sample/lobby/", count=1)
    configure(service, configuration("lobby", "door"))
    service.ask("systemctl", "reload", UNIT)
    events(service, "emotion.sample/door/")
    configure(service, configuration("lobby") + "[analyis]\nfps = 1\n")
    service.ask("systemctl", "reload", UNIT)
    wait_for(lambda: "reload_refused" in names(said(service, pid)), 20, "the refusal")
    (refused,) = [line for line in said(service, pid) if line["event"] == "reload_refused"]
    assert "analyis: unknown key" in refused["error"]
    assert cameras(service) == {"lobby", "door"}
    configure(service, configuration("lobby"))
    service.ask("systemctl", "reload", UNIT)
    wait_for(lambda: cameras(service) == {"lobby"}, 20, "one camera")
    (after,) = events(service, "emotion.sample/lobby/", count=1)
    assert after["epoch"] == before["epoch"]
    assert after["sequence"] > before["sequence"]
    assert (main_pid(service), restarts(service)) == (pid, 0)


def test_a_worker_that_hangs_is_restarted_by_the_watchdog(installed: Machine) -> None:
    """Pings end when one thread stands still; systemd kills, restarts, and events come again."""
    start(installed, configuration("lobby"), drop_in="WatchdogSec=6\n")
    pid = main_pid(installed)
    (before,) = events(installed, "emotion.sample/lobby/", count=1)
    holder = hold_thread(installed.outside(pid), "compute")
    try:
        wait_for(lambda: restarts(installed) == 1, 120, "the restart")
    finally:
        holder.kill()
        holder.wait(10)
    wait_for(lambda: main_pid(installed) not in {"0", pid}, 30, "a new process")
    (after,) = events(installed, "emotion.sample/lobby/", count=1)
    assert after["epoch"] != before["epoch"]
    stuck = [line for line in said(installed, pid) if line["event"] == "worker_stuck"]
    assert stuck[0]["workers"] == ["compute"]
    assert manager_says(installed, "Watchdog timeout (limit 6s)")
    assert manager_says(installed, "Failed with result 'watchdog'")


def test_a_killed_daemon_is_started_again(service: Machine) -> None:
    """SIGKILL, as the kernel sends it when memory runs out."""
    pid = main_pid(service)
    service.ask("systemctl", "kill", "--signal=KILL", UNIT)
    wait_for(lambda: restarts(service) == 1, 60, "the restart")
    events(service, "emotion.sample/lobby/")
    assert main_pid(service) != pid
    assert restarts(service) == 1


def test_a_bad_configuration_is_no_restart_loop(installed: Machine) -> None:
    """Exit 78: the unit has failed and stays so, and the journal says what is to be done."""
    mistakes = {
        "analyis: unknown key": configuration("lobby") + "[analyis]\nfps = 1\n",
        "chgrp streamer": configuration("lobby"),  # which its account cannot read
    }
    for word, text in mistakes.items():
        configure(installed, text)
        if word == "chgrp streamer":
            installed.ask("chgrp", "root", CONFIG)
        assert installed.run("systemctl", "start", UNIT).returncode != 0
        keys = ("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
        assert installed.show(UNIT, *keys) == {
            "ActiveState": "failed",
            "SubState": "failed",  # and not auto-restart
            "Result": "exit-code",
            "ExecMainStatus": "78",
            "NRestarts": "0",
        }
        lines = [entry["MESSAGE"] for entry in journal(installed) if entry["_PID"] != "1"]
        assert word in lines[-1]
    time.sleep(6.0)  # RestartSec is 5
    assert installed.show(UNIT, "NRestarts", "SubState") == {"NRestarts": "0", "SubState": "failed"}
    # And it starts when the mistake is mended.
    start(installed, configuration("lobby"))
    assert installed.show(UNIT, "ActiveState") == {"ActiveState": "active"}


def test_stop_is_clean(service: Machine) -> None:
    """In flow order, with exit code 0, well before systemd would lose patience."""
    pid = main_pid(service)
    begin_s = time.monotonic()
    service.ask("systemctl", "stop", UNIT)
    assert time.monotonic() - begin_s < 10  # TimeoutStopSec is 20
    keys = ("ActiveState", "Result", "ExecMainCode", "ExecMainStatus")
    assert service.show(UNIT, *keys) == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainCode": "1",  # CLD_EXITED: it ended by itself
        "ExecMainStatus": "0",
    }
    assert names(said(service, pid))[-2:] == ["daemon_stopping", "daemon_stopped"]
    assert service.ask("find", "/proc", "-maxdepth", "1", "-user", "streamer") == ""


def test_instances_run_side_by_side(service: Machine) -> None:
    """`streamer@north` reads north.toml and has folders of its own; here with two workers."""
    ports = (
        '[publish]\nbind = "tcp://127.0.0.1:6556"\nsnapshot = "tcp://127.0.0.1:6557"\n'
        '[http]\nbind = "127.0.0.1:6108"\n'
    )
    north = configuration("gate", "yard", extra=f"{ports}[daemon]\nworkers = 2\n")
    configure(service, north, "/etc/streamer/north.toml")
    service.ask("systemctl", "start", "streamer@north")
    try:
        for camera in ("gate", "yard"):
            topic = f"emotion.sample/{camera}/"
            events(service, topic, options="--connect tcp://127.0.0.1:6556")
        events(service, "emotion.sample/lobby/")
        assert service.path("/var/lib/streamer/north").is_dir()
    finally:
        service.ask("systemctl", "stop", "streamer@north")
        service.path("/etc/streamer/north.toml").unlink()


@contextmanager
def camera_with_a_password(machine: Machine) -> Iterator[str]:
    """Run an HTTP camera in the machine that lets nobody in but its viewer."""
    code = CAMERA.format(password=PASSWORD)
    machine.ask("systemd-run", "--unit=camera", "/opt/streamer/bin/python", "-c", code)
    try:
        yield "http://127.0.0.1:8080/live.mkv"
    finally:
        machine.run("systemctl", "stop", "camera")


def test_secrets_come_by_credentials_and_stay_secret(installed: Machine) -> None:
    """A camera's password and the CURVE key are root's files; only the service gets them."""
    secrets = "/etc/streamer/secrets"
    installed.ask("streamer", "keys", "generate", "server", "--folder", secrets)
    for name in ("alice", "mallory"):
        installed.ask("streamer", "keys", "generate", name, "--folder", f"/root/{name}")
    known = installed.path("/etc/streamer/subscribers")
    known.mkdir(mode=0o755, exist_ok=True)
    shutil.copy(installed.path("/root/alice/alice.key"), known)
    installed.write(f"{secrets}/door-login", f"viewer:{PASSWORD}\n", mode=0o600)
    extra = (
        '[publish]\nserver_secret_key = "curve-server"\n'
        'authorized_keys = "/etc/streamer/subscribers"\n'
    )
    with camera_with_a_password(installed) as url:
        door = f'[[cameras]]\nname = "door"\nurl = "{url}"\ncredentials = "door-login"\n'
        start(
            installed,
            door + configuration("lobby", extra=extra),
            drop_in=f"LoadCredential=curve-server:{secrets}/server.key_secret\n"
            f"LoadCredential=door-login:{secrets}/door-login\n",
        )
        pid = main_pid(installed)
        keys = f"--server-key {secrets}/server.key --client-key /root/{{0}}/{{0}}.key_secret"
        events(installed, "emotion.sample/lobby/", options=keys.format("alice"))
        for options in (keys.format("mallory"), ""):
            silent = f"timeout 3 streamer watch --json {options}"
            assert installed.run("sh", "-c", silent).stdout == "", options
        online = {e["camera"] for e in said(installed, pid) if e["event"] == "camera_online"}
        assert online == {"door", "lobby"}
    for secret in ("server.key_secret", "door-login"):
        assert installed.ask("stat", "--format=%U %a", f"{secrets}/{secret}") == "root 600\n"
    # The credentials are the service's alone, and the password is in nothing that others can see.
    peek = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "cat")
    for path in ("/run/credentials/streamer.service/door-login", f"{secrets}/door-login"):
        assert installed.run(*peek, path).returncode != 0
    commands = (
        ("systemctl", "show", UNIT),
        ("systemctl", "status", "--lines=999", UNIT),
        ("cat", f"/proc/{pid}/cmdline", f"/proc/{pid}/environ"),
    )
    seen = [json.dumps(journal(installed)), *(installed.ask(*command) for command in commands)]
    assert not any(PASSWORD in text for text in seen)


def test_the_package_keeps_what_is_the_operators(service: Machine) -> None:
    """An upgrade restarts it on the files that were changed; remove keeps them, purge does not."""
    pid = main_pid(service)
    service.write("/etc/streamer/environment", "CUDA_VISIBLE_DEVICES=1\n")
    config = service.path(CONFIG).read_text()
    service.ask(
        "install", "-D", "--owner=streamer", "/dev/null", "/var/lib/streamer/events/1.sqlite"
    )
    install(service)
    wait_for(lambda: main_pid(service) not in {"0", pid}, 60, "the new version")
    events(service, "emotion.sample/lobby/")
    environment = service.path("/etc/streamer/environment")
    assert environment.read_text() == "CUDA_VISIBLE_DEVICES=1\n"
    assert service.path(CONFIG).read_text() == config
    service.ask("dpkg", "--remove", "emotion-streamer", timeout_s=120)
    assert service.run("systemctl", "is-active", UNIT).stdout != "active\n"
    assert not service.path("/opt/streamer").exists()
    assert environment.is_file()
    assert service.path(CONFIG).read_text() == config
    purged = service.ask("dpkg", "--purge", "emotion-streamer", timeout_s=120)
    assert not service.path("/etc/streamer").exists()
    assert service.path("/var/lib/streamer/events/1.sqlite").exists()
    assert "/var/lib/streamer is kept" in purged
    assert service.run("systemctl", "cat", UNIT).returncode != 0


def test_the_script_installs_upgrades_and_takes_away(machine: Machine) -> None:
    """On a machine without the package; the second run finds a running service and restarts it."""
    if machine.run("dpkg-query", "--show", "emotion-streamer").returncode == 0:
        refused = machine.run("/src/systemd/install.sh")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "the Debian package emotion-streamer is installed" in refused.stderr
        machine.ask("dpkg", "--purge", "emotion-streamer", timeout_s=120)
    script = ("/src/systemd/install.sh", "--wheels", "/packages/wheels", "--mirror", "/models")
    assert "name the cameras in /etc/streamer/streamer.toml" in machine.ask(*script, timeout_s=400)
    state = machine.show(UNIT, "UnitFileState", "ActiveState")
    assert state == {"UnitFileState": "enabled", "ActiveState": "inactive"}
    start(machine, configuration("lobby"))
    events(machine, "emotion.sample/lobby/")
    pid = main_pid(machine)
    assert "runs the new version" in machine.ask(*script, timeout_s=400)
    assert main_pid(machine) not in {"0", pid}
    events(machine, "emotion.sample/lobby/")
    machine.ask("/src/systemd/install.sh", "--uninstall", timeout_s=240)
    assert machine.run("systemctl", "cat", UNIT).returncode != 0
    assert not machine.path("/opt/streamer").exists()
    assert machine.ask("find", "/proc", "-maxdepth", "1", "-user", "streamer") == ""
    assert machine.path(CONFIG).is_file()
    machine.ask("/src/systemd/install.sh", "--uninstall", "--purge")
    assert not machine.path("/etc/streamer").exists()
