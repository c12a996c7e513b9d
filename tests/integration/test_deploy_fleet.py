"""The fleet's Kubernetes manifests against the program, Ray's own options and each other."""

from __future__ import annotations

import re
import shlex
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer.fleet import settings
from streamer.fleet.placement import Camera, Node, place
from streamer.keys import generate
from tests.integration.test_deploy_container import accepts, dockerfile, instruction

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = {
    one["kind"]: one
    for one in yaml.safe_load_all((DEPLOY / "kubernetes" / "fleet.yaml").read_text())
}
CLUSTER: dict[str, Any] = MANIFESTS["RayCluster"]["spec"]
GROUPS: list[dict[str, Any]] = CLUSTER["workerGroupSpecs"]


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod of the head and of every group."""
    heads = {"head": CLUSTER["headGroupSpec"]}
    groups = heads | {group["groupName"]: group for group in GROUPS}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def ports(container: dict[str, Any]) -> dict[str, int]:
    """Return a container's ports by name."""
    return {port["name"]: port["containerPort"] for port in container["ports"]}


@pytest.fixture
def fleet(tmp_path: Path) -> settings.FleetConfig:
    """The configuration as the fleet reads it in its pod, with keys of our own."""
    text = MANIFESTS["ConfigMap"]["data"]["fleet.toml"].replace("POD_IP", "192.0.2.7")
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    return settings.load(file)


def test_the_fleet_takes_the_configuration(fleet: settings.FleetConfig, tmp_path: Path) -> None:
    """It is open to the network with keys and a token, and the keys are of the kind it reads."""
    assert (fleet.fleet.local, fleet.daemon.http.allow_remote) == (False, True)
    public, secret = generate(tmp_path / "nodes", "fleet")
    secret.rename(tmp_path / "fleet.key_secret")
    placed = settings.Fleet(
        link="tcp://192.0.2.7:5558",
        secret_key=str(tmp_path / "fleet.key_secret"),
        authorized_keys=str(public.parent),
    )
    keys = settings.link_keys(placed)
    assert keys is not None
    assert keys[0].public in keys[1]  # one pair for all pods: each knows the other


def test_the_commands_are_the_programs(fleet: settings.FleetConfig) -> None:
    """The fleet's container fills the address in and runs what the command line understands."""
    container = pods()["head"]["containers"][1]
    fill, _, run = container["args"][0].partition(" && exec ")
    assert fill.startswith('sed "s/POD_IP/$POD_IP/" /etc/streamer/fleet.toml > ')
    words = shlex.split(run)
    assert words[0] == "streamer"
    assert words[-1] == fill.rpartition("> ")[2]
    accepts(words[1:])
    (address,) = [entry for entry in container["env"] if entry["name"] == "POD_IP"]
    assert address["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert fleet.fleet.link == "tcp://192.0.2.7:5558"


def test_ray_knows_its_options() -> None:
    """Every parameter of a group is one of `ray start`, and labels are where KubeRay wants them."""
    scripts = pytest.importorskip("ray.scripts.scripts", reason="needs Ray")
    known = {option.lstrip("-") for param in scripts.start.params for option in param.opts}
    for group in (CLUSTER["headGroupSpec"], *GROUPS):
        assert set(group["rayStartParams"]) <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert "labels" not in group["rayStartParams"]  # the operator refuses them there
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no camera on the head
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray,) = [w for w in wanted["optional-dependencies"]["fleet"] if w.startswith("ray")]
    lowest = re.search(r">=([\d.]+)", ray)
    assert lowest is not None
    assert CLUSTER["rayVersion"].startswith(lowest[1])


def test_ports_are_the_same_everywhere(fleet: settings.FleetConfig) -> None:
    """Configuration, containers, service and policy agree."""
    head, node = pods()["head"]["containers"][1], pods()["west"]["containers"][0]
    daemon = fleet.daemon
    addresses = {
        "events": daemon.publish.bind,
        "snapshot": daemon.publish.snapshot,
        "link": fleet.fleet.link,
        "http": daemon.http.bind,
    }
    bound = {name: int(address.rpartition(":")[2]) for name, address in addresses.items()}
    assert ports(head) == bound
    first = fleet.fleet.node_port
    mine = {name: port for name, port in ports(node).items() if name != "raylet"}
    assert mine == {"events": first, "snapshot": first + 1, "http": first + 2}
    raylet = GROUPS[0]["rayStartParams"]["node-manager-port"]
    assert raylet == str(ports(node)["raylet"])
    service = MANIFESTS["Service"]["spec"]
    assert {p["name"]: p["port"] for p in service["ports"]} == {
        name: port for name, port in bound.items() if name != "link"
    }
    policy = MANIFESTS["NetworkPolicy"]["spec"]["ingress"]
    assert [{p["port"] for p in rule["ports"]} for rule in policy[1:]] == [
        {bound["events"], bound["snapshot"]},
        {"http"},
    ]
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "fleet.yml").read_text())
    (found,) = scrape["scrape_configs"][0]["http_sd_configs"]
    name = MANIFESTS["Service"]["metadata"]["name"]
    assert found["url"] == f"http://{name}:{bound['http']}/discovery"


def test_selectors_and_labels_match() -> None:
    """The service means the head alone, the policy every pod, and no pod is ready for nothing."""
    labels = {
        name: group["template"]["metadata"]["labels"]
        for name, group in {
            "head": CLUSTER["headGroupSpec"],
            **{group["groupName"]: group for group in GROUPS},
        }.items()
    }
    chosen = MANIFESTS["Service"]["spec"]["selector"].items()
    assert [name for name, own in labels.items() if chosen <= own.items()] == ["head"]
    wanted = MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items()
    assert all(wanted <= own.items() for own in labels.values())
    assert "readinessProbe" not in pods()["head"]["containers"][1]  # nodes come to a ready pod


def test_every_camera_has_a_place(fleet: settings.FleetConfig) -> None:
    """The groups have the labels and the room that the shipped configuration asks for."""
    nodes = [
        Node(
            name=f"{group['groupName']}-{index}",
            capacity=float(group["labels"].get("capacity", fleet.fleet.capacity)),
            labels=group["labels"],
        )
        for group in GROUPS
        for index in range(group["replicas"])
    ]
    needs = {name: need.needs for name, need in fleet.fleet.cameras.items()}
    cameras = [Camera(name=c.name, needs=needs.get(c.name, {})) for c in fleet.daemon.cameras]
    assert place(cameras, nodes, {}).waiting == {}


@pytest.mark.parametrize("name", ["head", *(group["groupName"] for group in GROUPS)])
def test_a_pod_is_confined_and_whole(name: str, fleet: settings.FleetConfig) -> None:
    """Nobody is root, nothing is written but to volumes, each file that is named is mounted."""
    pod = pods()[name]
    uid, gid = (int(part) for part in instruction("USER").split(":"))
    security = pod["securityContext"]
    assert [security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [uid, gid, gid]
    assert security["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    stages = {rest.split(" AS ")[1] for word, rest in dockerfile() if word == "FROM"}
    for container in pod["containers"]:
        assert container["image"].partition(":")[2] in stages
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert {"emptyDir"} <= mounts["/tmp"].keys()  # noqa: S108 - Ray's sockets
        assert "configMap" in mounts[fleet.fleet.authorized_keys]
        assert "configMap" in mounts[fleet.daemon.publish.authorized_keys]
        assert "emptyDir" in mounts[str(Path(fleet.fleet.folder).parent)]
        for secret in (fleet.fleet.secret_key, fleet.daemon.http.token):
            volume = mounts[str(Path(secret).parent)]["secret"]
            assert volume["defaultMode"] & 0o007 == 0
            shipped = yaml.safe_load((DEPLOY / "kubernetes" / "secret.yaml").read_text())
            assert volume["secretName"] == shipped["metadata"]["name"]
            assert shipped["stringData"][Path(secret).name] == ""


def test_the_steps_on_three_machines_are_taken(tmp_path: Path) -> None:
    """The configuration that the README shows is one, and its cameras find a place there."""
    text = (ROOT / "streamer" / "fleet" / "README.md").read_text()
    shown = re.search(r"(?ms)^ {7}\[\[cameras\]\].*?(?=^\d\. )", text)
    assert shown is not None
    file = tmp_path / "fleet.toml"
    file.write_text(textwrap.dedent(shown[0]))
    loaded = settings.load(file)
    labels = [
        dict(pair.split("=") for pair in found.split(","))
        for found in re.findall(r"ray start .*--labels (\S+)", text)
    ]
    assert len(labels) == 3
    nodes = [Node(name=of["name"], capacity=16, labels=of) for of in labels]
    cameras = [Camera(name=name, needs=need.needs) for name, need in loaded.fleet.cameras.items()]
    assert place(cameras, nodes, {}).homes == {"gate": "roof"}
