"""Container files, compose stack and Kubernetes manifests against what the program offers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
import yaml
from prometheus_client import CollectorRegistry
from typer.core import TyperGroup

from streamer import assets, cli, config
from streamer.client import Subscriber
from streamer.errors import ConfigError
from streamer.keys import generate, load_pair, load_public
from streamer.metrics import Metrics
from streamer.publish import PublishOptions
from streamer.web import LiveView, WebOptions, WebServer, WorkerHealth
from tests.daemon import free_port, wait_for
from tests.fakes_web import FakeState

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "streamer.yaml").read_text()))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with their lines joined."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


def instruction(name: str) -> str:
    """Return the arguments of an instruction that occurs once."""
    (found,) = [rest for word, rest in dockerfile() if word == name]
    return found


def manifest(kind: str) -> dict[str, Any]:
    """Return the Kubernetes object of a kind."""
    (found,) = [document for document in KUBERNETES if document["kind"] == kind]
    return dict(found)


def pod() -> dict[str, Any]:
    """Return the pod of the deployment."""
    found: dict[str, Any] = manifest("Deployment")["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    """Return its container."""
    (found,) = pod()["containers"]
    return dict(found)


def accepts(arguments: list[str]) -> None:
    """Parse a command line without running it; it raises for what is not understood."""
    command: Any = typer.main.get_command(cli.app)
    rest = [str(word) for word in arguments]
    while isinstance(command, TyperGroup):
        name = rest.pop(0)
        found = command.commands.get(name)
        assert found is not None, f"no command {name!r} in {arguments}"
        command = found
    command.make_context("streamer", rest).close()


def test_a_wrong_command_line_would_be_seen() -> None:
    """The check that the next tests rely on can fail."""
    with pytest.raises(Exception, match="No such option: --konfig"):
        accepts(["run", "--konfig", "x"])
    with pytest.raises(AssertionError, match="no command 'amqp'"):
        accepts(["bridge", "amqp"])


def test_every_command_line_is_the_programs() -> None:
    """What image, stack and cluster run is understood by the command line."""
    assert json.loads(instruction("ENTRYPOINT")) == ["streamer"]
    accepts(json.loads(instruction("CMD")))
    accepts(container()["args"])
    ours = [s for s in COMPOSE["services"].values() if s["image"].startswith("emotion-streamer:")]
    assert len(ours) == 3
    for service in ours:
        if "command" in service:
            accepts(service["command"])


def test_what_is_copied_and_installed_exists() -> None:
    """Sources of COPY are there and let through, extras and assets are known, stages are named."""
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    stages = {rest.split(" AS ")[1] for word, rest in dockerfile() if word == "FROM"}
    for word, rest in dockerfile():
        if word == "COPY" and rest.startswith("--from="):
            assert rest.removeprefix("--from=").split()[0] in stages
        elif word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in let_through, source
        elif word == "RUN" and "pip install" in rest:
            for wanted in re.findall(r"\.\[([^]]+)\]", rest):
                name = wanted.removeprefix("$")  # an argument stands for its default
                assert (
                    instruction_with(f"{name}=").split("=")[1] if "$" in wanted else name
                ) in extras
            for lock in re.findall(r"-r (\S+)", rest):
                assert (ROOT / lock).is_file()
                assert "--require-hashes" in rest
        elif word == "RUN" and "assets install" in rest:
            assert rest.split()[-1] in assets.ASSETS
    targets = {COMPOSE["services"]["streamer"]["build"]["target"]}
    cuda = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())
    targets.add(cuda["services"]["streamer"]["build"]["target"])
    assert targets == {"cpu", "cuda"} <= stages


def test_nobody_is_root() -> None:
    """The image's user is a number, so that a cluster can see it, and the same one everywhere."""
    uid, gid = instruction("USER").split(":")
    assert int(uid) > 0
    security = pod()["securityContext"]
    assert security["runAsNonRoot"] is True
    assert [security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [
        int(uid),
        int(gid),
        int(gid),
    ]
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for service in COMPOSE["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_secrets_are_read_by_their_group() -> None:
    """No secret asks for an owner, which older engines cannot give, and not everyone reads it."""
    for service in COMPOSE["services"].values():
        for secret in service.get("secrets", ()):
            assert (secret.keys(), secret["mode"]) == ({"source", "mode"}, "0o440")
            assert service["group_add"] == ["0"]
            assert not service.get("read_only")  # nothing can be copied into such a container


def settings() -> dict[str, config.Config]:
    """Return the configurations that are shipped, by where they are used."""
    return {
        "compose": config.parse((DEPLOY / "container.toml").read_text()),
        "kubernetes": config.parse(manifest("ConfigMap")["data"]["streamer.toml"]),
    }


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_ports_are_the_same_everywhere(place: str) -> None:
    """The configuration binds what the image, the stack and the cluster expect."""
    settings_ = settings()[place]
    bound = {
        "events": int(settings_.publish.bind.rpartition(":")[2]),
        "snapshot": int(settings_.publish.snapshot.rpartition(":")[2]),
        "http": int(settings_.http.bind.rpartition(":")[2]),
    }
    assert {int(port) for port in instruction("EXPOSE").split()} == set(bound.values())
    assert {p["name"]: p["containerPort"] for p in container()["ports"]} == bound
    service = manifest("Service")["spec"]
    assert {p["name"]: p["port"] for p in service["ports"]} == bound
    assert all(p["targetPort"] == p["name"] for p in service["ports"])
    assert f":{bound['http']}/livez" in instruction("HEALTHCHECK")


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_the_configurations_are_taken(place: str, tmp_path: Path) -> None:
    """Open addresses come with a token, and in a cluster with keys; the options accept them."""
    settings_ = settings()[place]
    assert settings_.http.token
    with pytest.raises(ConfigError, match=r"http\.token"):
        WebOptions(bind=settings_.http.bind, allow_remote=True)
    WebOptions(bind=settings_.http.bind, allow_remote=settings_.http.allow_remote, token=TOKEN)
    public, secret = generate(tmp_path, "server")
    keyed = bool(settings_.publish.server_secret_key)
    assert keyed == (place == "kubernetes")
    PublishOptions(
        bind=settings_.publish.bind,
        snapshot=settings_.publish.snapshot,
        allow_remote=settings_.publish.allow_remote,
        server_secret_key=secret if keyed else None,
        authorized_keys=public.parent if keyed else None,
    )


def mounted(path: str) -> dict[str, Any]:
    """Return the volume of the pod that a path lies on."""
    over = [
        mount
        for mount in container()["volumeMounts"]
        if PurePosixPath(path).is_relative_to(mount["mountPath"])
    ]
    assert over, f"{path} is on no volume"
    deepest = max(over, key=lambda mount: len(mount["mountPath"]))
    (volume,) = [volume for volume in pod()["volumes"] if volume["name"] == deepest["name"]]
    return dict(volume)


def test_every_file_of_the_cluster_is_mounted() -> None:
    """Configuration, secrets and keys are where they are named; what is written to is writable."""
    settings_ = settings()["kubernetes"]
    assert mounted(container()["args"][-1])["configMap"]["name"] == "streamer"
    assert mounted(settings_.publish.authorized_keys)["configMap"]["optional"] is True
    secret = yaml.safe_load((DEPLOY / "kubernetes" / "secret.yaml").read_text())
    for path in (settings_.http.token, settings_.publish.server_secret_key):
        volume = mounted(path)["secret"]
        assert volume["secretName"] == secret["metadata"]["name"]
        assert volume["defaultMode"] & 0o007 == 0  # the daemon refuses what everyone can read
        assert secret["stringData"][PurePosixPath(path).name] == ""  # no value is committed
    engines = dict(pair.split("=") for pair in shlex.split(instruction_with("STREAMER_ENGINES")))
    assert "emptyDir" in mounted(engines["STREAMER_ENGINES"])
    assert "emptyDir" in mounted("/tmp/x")  # noqa: S108 the path in the container
    assert len(pod()["volumes"]) == len(container()["volumeMounts"])


def instruction_with(text: str) -> str:
    """Return the arguments of the ENV or ARG that sets something."""
    (found,) = [rest for word, rest in dockerfile() if word in {"ARG", "ENV"} and text in rest]
    return found


def test_selectors_match_their_pods() -> None:
    """Deployment, service and policy mean the pods of this deployment."""
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    policy = manifest("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    named = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert named == {port["name"] for port in container()["ports"]}


def test_the_stack_is_whole() -> None:
    """Files that are mounted exist, secrets and volumes are declared, images have versions."""
    for name, service in COMPOSE["services"].items():
        assert re.search(r":[\w.]*\d|:cpu$", service["image"]), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            known = (DEPLOY / source).exists() if source.startswith(".") else False
            assert known or source in COMPOSE["volumes"], f"{name}: {volume}"
        for secret in service.get("secrets", ()):
            assert set(COMPOSE["secrets"][secret["source"]]) == {"environment"}
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network: {port}"
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
    text = (DEPLOY / "README.md").read_text()
    for secret in COMPOSE["secrets"].values():
        assert secret["environment"] in text


def test_one_image_serves_the_whole_stack() -> None:
    """What runs our image runs the one that is built, on a GPU too; none is pulled."""
    built = COMPOSE["services"]["streamer"]["image"]
    sharing = {n for n, s in COMPOSE["services"].items() if s["image"] == built} - {"streamer"}
    assert sharing == {"record", "mqtt"}
    assert {COMPOSE["services"][name]["pull_policy"] for name in sharing} == {"never"}
    cuda = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())["services"]
    assert sharing < cuda.keys()
    assert len({service["image"] for service in cuda.values()}) == 1


def probe(*, port: int) -> int:
    """Return the exit code of the image's health check against a port of this host."""
    words = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    assert words[0] == "python"
    words[2] = words[2].replace("9108", str(port))
    return subprocess.run(
        [sys.executable, *words[1:]], capture_output=True, check=False, timeout=30
    ).returncode


def test_the_health_check_tells_life_from_a_stuck_worker() -> None:
    """0 while every worker makes progress, 1 when one does not and when nobody answers."""
    metrics = Metrics(CollectorRegistry())
    state = FakeState(registry=metrics.registry)
    live = LiveView(clock=time, metrics=metrics, pictures="omit")
    options = WebOptions(bind="127.0.0.1:0", token=TOKEN)
    server = WebServer(options=options, state=state, live=live, metrics=metrics, clock=time)
    server.start()
    port = int(server.url.rstrip("/").rpartition(":")[2])
    try:
        assert probe(port=port) == 0
        state.workers = {"compute": WorkerHealth(age_s=60.0, limit_s=15.0)}
        assert probe(port=port) == 1
    finally:
        assert server.stop(5.0)
    assert probe(port=port) == 1


@contextmanager
def in_a_pod(folder: Path) -> Iterator[tuple[dict[str, int], Path]]:
    """Run the daemon as the cluster does, its paths and ports moved; yield ports and log."""
    text = manifest("ConfigMap")["data"]["streamer.toml"]
    ports = {"events": free_port(), "snapshot": free_port(), "http": free_port()}
    for number, name in ((5556, "events"), (5557, "snapshot"), (9108, "http")):
        text = text.replace(f":{number}", f":{ports[name]}")
    secrets, subscribers = folder / "secrets", folder / "subscribers"
    generate(secrets, "server")
    (secrets / "http-token").write_text(TOKEN)
    (secrets / "http-token").chmod(0o440)
    public, _secret = generate(folder / "alice", "alice")
    subscribers.mkdir()
    (subscribers / "alice.key").write_bytes(public.read_bytes())
    text = text.replace("/run/secrets/streamer", str(secrets))
    text = text.replace("/etc/streamer/subscribers", str(subscribers))
    text = text.replace("rtsp://camera.example/stream", f"rtsp://127.0.0.1:{free_port()}/none")
    (folder / "streamer.toml").write_text(text)
    words = [*container()["args"][:-1], str(folder / "streamer.toml")]
    log = folder / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "streamer", *words], stdout=out, stderr=out, env=os.environ
        ) as process,
    ):
        try:
            yield ports, log
            process.send_signal(signal.SIGTERM)
            limit_s = pod()["terminationGracePeriodSeconds"]
            assert process.wait(limit_s) == 0, log.read_text()
        finally:
            process.kill()


def status(port: int, path: str, token: str = "") -> int:
    """Return the status of an answer; 0 when nobody answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - our own
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


def test_the_daemon_runs_as_the_cluster_runs_it(tmp_path: Path) -> None:
    """Probes answer without a token, metrics ask for it, a known subscriber hears, SIGTERM ends."""
    if assets.find(assets.ASSETS["yunet"], assets.default_folder()) is None:
        pytest.skip("needs the face detector's file (streamer assets install yunet)")
    probes = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    with in_a_pod(tmp_path) as (ports, log):
        http = ports[probes["startup"]["port"]]
        wait_for(
            lambda: status(http, probes["startup"]["path"]) == HTTPStatus.OK, 60, log.read_text()
        )
        assert status(http, probes["liveness"]["path"]) == HTTPStatus.OK
        assert probe(port=http) == 0
        assert status(http, "/metrics") == HTTPStatus.UNAUTHORIZED
        assert status(http, "/metrics", TOKEN) == HTTPStatus.OK
        with Subscriber(
            connect=f"tcp://127.0.0.1:{ports['events']}",
            snapshot=f"tcp://127.0.0.1:{ports['snapshot']}",
            server_key=load_public(tmp_path / "secrets" / "server.key"),
            keys=load_pair(tmp_path / "alice" / "alice.key_secret"),
        ) as subscriber:
            assert subscriber.wait_connected(20)
            (camera,) = settings()["kubernetes"].cameras
            found = subscriber.snapshot(10)
            assert found.daemon is not None
            assert found.daemon.cameras == (camera.name,)
