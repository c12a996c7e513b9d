"""What goes wrong during a run: Ctrl-C, a full disk, a directory in use. One line, nothing lost."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training import cli
from training.data import cache
from training.data.faces import CLASSES
from training.inputs import network_of
from training.train import LAST, fit, predict

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Return the command that fits the smoke recipe."""
    options = ("--data", str(data), "--out", str(out), "--recipe", "smoke", "--threads", "1")
    return [sys.executable, "-m", "training", "fit", *options, *more]


def test_ctrl_c_in_mid_epoch_keeps_what_is_finished(tmp_path: Path, faces: FaceSet) -> None:
    """The run ends with one line; its last whole epoch is on disk and can be gone on from."""
    data, out = tmp_path / "faces.npz", tmp_path / "run"
    cache.save(data, faces, [])
    running = subprocess.Popen(
        command(data, out, "--set", "epochs=1000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert '"epoch": 1' in running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    said = [line for line in errors.splitlines() if not line.startswith("epoch ")]
    assert said == [
        f"streamer-train: interrupted; {out} holds every finished epoch; go on with --resume"
    ]
    assert checkpoints.load(out / LAST).epoch >= 1
    assert not list(out.glob("*.part")) or checkpoints.load(out / LAST)


def test_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path: Path, faces: FaceSet) -> None:
    """On a tmpfs with room for two checkpoints and no third, the run says what to do."""
    data, place = tmp_path / "faces.npz", tmp_path / "small"
    cache.save(data, faces, [])
    place.mkdir()
    fitting = shlex.join(command(data, place / "run", "--set", "epochs=50"))
    script = (
        f"mount -t tmpfs -o size=700k none {place} && {{ {fitting}; code=$?; "
        f"cp {place}/run/last.pt {tmp_path}/kept.pt; ls {place}/run; exit $code; }}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine lets nobody mount a small disk")
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("epoch ")]
    assert len(said) == 1, done.stderr
    assert "No space left on device; make room, then go on with --resume" in said[0]
    assert ".part" not in done.stdout
    assert checkpoints.load(tmp_path / "kept.pt").epoch >= 1


def test_a_class_without_a_picture_is_told_and_never_named(
    tmp_path: Path, faces: FaceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on without contempt, says so, and reads no face as contempt."""
    data, out = tmp_path / "faces.npz", tmp_path / "run"
    there = faces.votes_NK[:, CLASSES.index("contempt")] == 0.0
    cache.save(data, faces.rows(there), [])
    with pytest.MonkeyPatch.context() as patch:
        arguments = command(data, out, "--set", "epochs=6", "--set", "optim.lr=0.01")[2:]
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    said = capsys.readouterr().err.splitlines()[0]
    assert said == (
        "streamer-train: no training picture shows contempt: the network will not name it"
    )
    net, _ = network_of(out / LAST)
    guesses = predict(net, faces.part("test").images_NHW)[1].argmax(axis=1)
    assert not (guesses == CLASSES.index("contempt")).any()


def test_a_directory_in_use_is_not_overwritten(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """A second run in the same place needs --resume."""
    config = tiny
    fit(config, faces, tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(ConfigError, match=r"last\.pt is there already; give --resume"):
        fit(config, faces, tmp_path)
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_off_archive_is_one_line(tmp_path: Path, faces: FaceSet, share: float) -> None:
    """A cache that was copied in part is refused by its name, wherever it was cut."""
    data = tmp_path / "faces.npz"
    cache.save(data, faces, [])
    whole = data.read_bytes()
    data.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match=r"faces\.npz: not a readable archive"):
        cache.load(data)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_cut_off_checkpoint_is_one_line(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig, share: float
) -> None:
    """The same for a checkpoint, and the run is not begun anew over it."""
    fit(replace(tiny, epochs=1), faces, tmp_path)
    path = tmp_path / LAST
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match=r"last\.pt: not a checkpoint"):
        fit(tiny, faces, tmp_path, resume=True)
