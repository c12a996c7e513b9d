"""The imports go one way, and each library has one owner: the map of modules, enforced."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the edges of the process inward; a module imports only from layers before its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("streamer.errors", "streamer.types"),
    (
        "streamer.stages",
        "streamer.mailbox",
        "streamer.config",
        "streamer.bundle",
        "streamer.preprocess",
        "streamer.stages",
        "streamer.assets",
        "streamer.folders",
        "streamer.events",
        "streamer.hysteresis",
        "streamer.metrics",
        "streamer.logs",
        "streamer.systemd",
    ),
)
# Each of these is imported by nobody but its owner.
OWNERS = {
    "av": {
        *("streamer.capture", "streamer.picture"),
        *("streamer.showreel", "streamer.analyse.video"),
    },
    "zmq": {
        *("streamer.publish", "streamer.client", "streamer.keys", "streamer.sockets"),
        *("streamer.fleet.link", "streamer.fleet.switchboard"),
        *("streamer.fleet.agent", "streamer.fleet.service"),
    },
    "onnxruntime": {"streamer.session"},
    "ray": {"streamer.fleet.cluster", "training.cluster"},
    "mediapipe": {"streamer.detect.mediapipe"},
    "tensorrt": {"streamer.engine.tensorrt"},
    "tensorrt_rtx": {"streamer.engine.tensorrt"},
    "cuda": {"streamer.engine.device"},
    "uvicorn": {"streamer.web.server"},
    "paho": {"streamer.bridge.broker"},
    "pyarrow": {"streamer.archive.parquet", "streamer.analyse.samples"},
}


def modules(package: str) -> dict[str, Path]:
    """Return every module of a package with its file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_the_daemon_never_imports_training_or_torch() -> None:
    """The service runs without the training package and its libraries."""
    for name, path in modules("streamer").items():
        roots = {target.partition(".")[0] for target in imports(path)}
        assert not roots & {"training", "torch"}, f"{name} reaches into training"


def test_training_uses_only_the_shared_part_of_the_daemon() -> None:
    """Training shares the bundle, the crops, the errors and the detectors, nothing else."""
    allowed = {
        "streamer.assets",
        "streamer.bundle",
        "streamer.detect",
        "streamer.engine",
        "streamer.errors",
        "streamer.preprocess",
        "streamer.stages",
        "streamer.types",
    }
    for name, path in modules("training").items():
        for target in imports(path):
            if target.startswith("streamer.") and target in modules("streamer"):
                assert any(target == ok or target.startswith(ok + ".") for ok in allowed), (
                    f"{name} imports {target}"
                )


def test_errors_and_types_import_nothing_of_ours() -> None:
    """The words of the system stand on their own."""
    for name in LAYERS[0]:
        ours = {t for t in imports(modules("streamer")[name]) if t.startswith("streamer")}
        assert not ours, f"{name} imports {ours}"


def test_the_shared_middle_does_not_reach_outward() -> None:
    """The middle imports only itself and the words below it."""
    known = modules("streamer")
    inner = {*LAYERS[0], *LAYERS[1]}
    for name in LAYERS[1]:
        if name not in known:
            continue
        ours = {t for t in imports(known[name]) if t in known and t != "streamer"}
        assert ours <= inner, f"{name} imports {ours - inner}"


def test_the_imports_have_no_cycle() -> None:
    """The modules can be put in an order in which each uses only those before it."""
    files = {**modules("streamer"), **modules("training")}
    uses = {name: imports(path) & files.keys() - {name} for name, path in files.items()}
    TopologicalSorter(uses).prepare()  # raises CycleError, which names the cycle


STAGES = ("capture", "detect", "track", "engine", "temporal", "publish", "web")


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_one_another(stage: str) -> None:
    """What joins them is the pipeline and the composition root."""
    own = f"streamer.{stage}"
    others = {f"streamer.{other}" for other in STAGES if other != stage}
    for name, path in modules("streamer").items():
        if name == own or name.startswith(own + "."):
            found = {o for o in others for t in imports(path) if t == o or t.startswith(o + ".")}
            assert not found, f"{name} imports {found}"


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_library_has_one_owner(library: str) -> None:
    """A runtime or a socket library is imported by the module that owns it, and by no other."""
    users = {
        name
        for name, path in modules("streamer").items()
        if any(t == library or t.startswith(library + ".") for t in imports(path))
    }
    assert users <= OWNERS[library]


def test_only_the_supervisor_catches_everything() -> None:
    """`except Exception` stands where the process ends, and nowhere else."""
    for package in ("streamer", "training"):
        for name, path in modules(package).items():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler):
                    broad = node.type is None or (
                        isinstance(node.type, ast.Name)
                        and node.type.id in {"Exception", "BaseException"}
                    )
                    assert not broad or name == "streamer.supervisor", f"{name}:{node.lineno}"


def test_no_module_is_a_drawer() -> None:
    """Each file is one noun; there is no place for odds and ends."""
    drawers = {"utils", "helpers", "common", "misc", "manager"}
    for package in ("streamer", "training"):
        assert not {name.rpartition(".")[2] for name in modules(package)} & drawers


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """`streamer --help` answers at once: nothing heavy is imported before it is needed."""
    code = (
        "import sys, streamer.cli; "
        "print(*(m for m in ('av', 'cv2', 'torch', 'mediapipe', 'onnxruntime', 'zmq') "
        "if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""


def test_one_build_of_opencv_is_loaded() -> None:
    """Both OpenCV wheels install the folder cv2; whichever came last is the version we pin."""
    from importlib.metadata import version  # noqa: PLC0415

    import cv2  # noqa: PLC0415

    assert cv2.__version__ == "5.0.0"
    assert version("opencv-python") == version("opencv-contrib-python") == "5.0.0.93"
