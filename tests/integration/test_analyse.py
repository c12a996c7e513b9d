"""``streamer analyse`` as its users have it: real videos, a process of its own, Ctrl-C."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest

from tests.daemon import DaemonProcess, collect, wait_for

TYPES = ("face.appeared", "face.lost", "emotion.sample", "emotion.changed")


def command(shared: Path, out: Path, *arguments: str | Path) -> list[str]:
    """Return the command line of an analysis."""
    return [
        *(sys.executable, "-m", "streamer", "analyse", *map(str, arguments)),
        *("--out", str(out), "--mirror", str(shared / "models")),
    ]


def analyse(shared: Path, out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an analysis to its end."""
    return subprocess.run(
        command(shared, out, *arguments), capture_output=True, text=True, timeout=100, check=False
    )


def events_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a finished recording."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def names_in(folder: Path) -> set[str]:
    """Return what lies in a folder."""
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def done(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Analyse one recording with everything that can be asked for."""
    out = tmp_path_factory.mktemp("analysis")
    clip = shared / "video" / "single_face.mp4"
    result = analyse(shared, out, clip, "--parquet", "--thumbnails", "--video")
    assert result.returncode == 0, result.stderr
    assert "happiness" in result.stdout
    assert "× real time" in result.stderr
    return out


def test_everything_asked_for_is_written(done: Path) -> None:
    """The data, the tables, a timeline a face in two formats, and the pictures."""
    assert names_in(done) == {"single_face", "summary.csv"}
    assert names_in(done / "single_face") == {
        *("analysis.json", "events.jsonl", "samples.csv", "samples.parquet", "summary.csv"),
        *("dwells.csv", "timeline-face-001.png", "timeline-face-001.svg"),
        *("thumbnails.jpg", "annotated.mp4"),
    }
    assert (done / "summary.csv").read_text() == (done / "single_face" / "summary.csv").read_text()


def test_the_table_agrees_with_the_events(done: Path) -> None:
    """Each reading has its row: picture, face, label and probabilities."""
    folder = done / "single_face"
    samples = [e["data"] for e in events_of(folder) if e["type"] == "emotion.sample"]
    with (folder / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(samples) > 15
    for row, sample in zip(rows, samples, strict=True):
        assert (int(row["frame"]), int(row["face"])) == (sample["frame"]["seq"], sample["track"])
        assert row["label"] == sample["label"]
        for name, probability in sample["probabilities"].items():
            assert float(row[f"p_{name}"]) == pytest.approx(probability)


def test_events_are_dated_by_their_place_in_the_file(done: Path) -> None:
    """Without a start they count from 1970, and nothing depends on when the analysis ran."""
    events = events_of(done / "single_face")
    assert [e["type"] for e in (events[0], events[-1])] == ["camera.online", "camera.offline"]
    assert {e["time"][:17] for e in events} == {"1970-01-01T00:00:"}
    samples = [e for e in events if e["type"] == "emotion.sample"]
    assert [e["sequence"] for e in samples] == list(range(1, len(samples) + 1))
    assert all(e["time"] == e["data"]["captured_at"] for e in samples)
    assert all(e["data"]["latency_ms"] == 0 for e in samples)


def test_the_annotated_video_keeps_pictures_and_sound(done: Path, shared: Path) -> None:
    """As many pictures at the same times, and the sound packet for packet."""

    def content(path: Path) -> tuple[list[float], list[bytes]]:
        with av.open(str(path)) as container:
            pictures = [round(f.time or 0.0, 3) for f in container.decode(video=0)]
        with av.open(str(path)) as container:
            sound = [bytes(p) for p in container.demux(audio=0) if p.dts is not None]
        return pictures, sound

    pictures, sound = content(done / "single_face" / "annotated.mp4")
    source_pictures, source_sound = content(shared / "video" / "single_face.mp4")
    assert pictures == source_pictures
    assert sound == source_sound
    assert len(sound) > 10


def test_the_boxes_are_drawn_where_the_face_is(done: Path, shared: Path) -> None:
    """A picture in mid-file differs from the recording at its box's edge and hardly elsewhere."""
    folder = done / "single_face"
    sample = [e["data"] for e in events_of(folder) if e["type"] == "emotion.sample"][-5]
    x1, y1, _, y2 = map(round, sample["box"])

    def picture(path: Path) -> Any:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0), 1):
                if number == sample["frame"]["seq"]:
                    return frame.to_ndarray(format="bgr24").astype(int)
        raise AssertionError(f"{path} ends too soon")

    change = abs(
        picture(folder / "annotated.mp4") - picture(shared / "video" / "single_face.mp4")
    ).max(axis=2)
    assert change[(y1 + y2) // 2, x1 - 1 : x1 + 2].max() > 60
    assert change[:, : x1 - 10].mean() < 8


def test_nothing_is_done_twice(done: Path, shared: Path) -> None:
    """A second run leaves finished work alone, and asking for less takes nothing away."""
    folder = done / "single_face"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = analyse(shared, done, shared / "video" / "single_face.mp4")
    assert result.returncode == 0
    assert "1 of 1 finished before" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_same_input_gives_the_same_bytes(done: Path, shared: Path, tmp_path: Path) -> None:
    """Events and tables do not depend on when, where to, or beside what they were made."""
    video = shared / "video"
    result = analyse(
        shared, tmp_path / "o", video / "single_face.mp4", video / "no_face.mp4", "--no-plots"
    )
    assert result.returncode == 0, result.stderr
    for name in ("events.jsonl", "samples.csv", "summary.csv", "dwells.csv"):
        assert (tmp_path / "o" / "single_face" / name).read_bytes() == (
            done / "single_face" / name
        ).read_bytes()
    empty = tmp_path / "o" / "no_face"
    assert [e["type"] for e in events_of(empty)] == ["camera.online", "camera.offline"]
    assert names_in(empty) == {
        *("analysis.json", "events.jsonl", "samples.csv", "summary.csv", "dwells.csv")
    }


def test_one_bad_file_does_not_stop_the_others(shared: Path, tmp_path: Path) -> None:
    """Missing, no video at all, only sound: one line each, exit code 1, no folder."""
    (tmp_path / "text.mp4").write_text("not a video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode()])
    out = tmp_path / "out"
    inputs = [tmp_path / name for name in ("text.mp4", "sound.mp4", "gone.mp4")]
    clip = shared / "video" / "yes.mkv"
    result = analyse(shared, out, *inputs, clip, "--no-plots")
    assert result.returncode == 1
    failures = [line for line in result.stderr.splitlines() if line.startswith("failed")]
    assert len(failures) == 3
    assert any("sound: no_video" in line for line in failures)
    assert any("gone: not_found" in line for line in failures)
    assert "Traceback" not in result.stderr
    assert "3 of 4 failed" in result.stderr
    assert names_in(out) - {"summary.csv"} == {"yes"}


def test_after_an_interruption_it_goes_on(shared: Path, tmp_path: Path) -> None:
    """Ctrl-C in mid-file: what is finished stays, nothing half-written does, the rest follows."""
    out = tmp_path / "out"
    video = shared / "video"
    clips = (video / "yes.mkv", video / "cap13_edit2.mp4")
    arguments = command(shared, out, *clips, "--no-plots", "--jobs", "1")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        wait_for((out / ".cap13_edit2.unfinished").exists, 60, "the second file begins")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        notes = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "1 of 2 recordings finished" in notes
    assert "the same command goes on" in notes
    assert names_in(out) - {"summary.csv"} == {"yes"}
    before = (out / "yes" / "events.jsonl").stat().st_mtime_ns
    result = analyse(shared, out, *clips, "--no-plots")
    assert result.returncode == 0, result.stderr
    assert "1 of 2 finished before" in result.stderr
    assert (out / "yes" / "events.jsonl").stat().st_mtime_ns == before
    assert names_in(out) == {"summary.csv", "yes", "cap13_edit2"}


def test_a_table_that_was_taken_away_is_made_again(shared: Path, tmp_path: Path) -> None:
    """Its recording counts as unfinished; a table that cannot be written is told in one line."""
    out, clip = tmp_path / "out", shared / "video" / "yes.mkv"
    assert analyse(shared, out, clip, "--no-plots").returncode == 0
    table = (out / "summary.csv").read_bytes()
    for emptied in (False, True):
        (out / "yes" / "summary.csv").unlink()
        if emptied:
            (out / "yes" / "summary.csv").touch()
        (out / "summary.csv").unlink()
        result = analyse(shared, out, clip, "--no-plots")
        assert (result.returncode, "finished before" in result.stderr) == (0, False), result.stderr
        assert (out / "summary.csv").read_bytes() == table
    (out / "summary.csv").unlink()
    (out / "summary.csv").mkdir()
    result = analyse(shared, out, clip, "--no-plots")
    assert result.returncode == 1
    assert f"streamer: error: {out / 'summary.csv'}: Is a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mistake_is_one_line(shared: Path, tmp_path: Path) -> None:
    """A folder without videos: exit code 78 and no traceback."""
    (tmp_path / "empty").mkdir()
    result = analyse(shared, tmp_path / "out", tmp_path / "empty")
    assert result.returncode == 78
    assert len(result.stderr.splitlines()) == 1
    assert "no video in this folder" in result.stderr


@pytest.mark.parametrize("name", ["distress_to_smile.mp4", "crowd_1080p.mp4"])
def test_the_daemon_says_the_same_of_the_same_file(shared: Path, tmp_path: Path, name: str) -> None:
    """Every event about a face, picture by picture: label, box and probabilities."""
    clip = tmp_path / f"feed{Path(name).suffix}"
    clip.write_text("not a video yet, so that the daemon tries again")
    body = (
        f'[[cameras]]\nname = "feed"\nurl = "{clip}"\nrealtime = false\nloop = false\n'
        f'[detector]\nmirror = "{shared / "models"}"\n'
    )
    with DaemonProcess(tmp_path, body) as daemon, daemon.subscriber() as subscriber:
        shutil.copy(shared / "video" / name, tmp_path / "part")
        (tmp_path / "part").rename(clip)  # whole at once, when somebody listens
        received = collect(
            subscriber,
            lambda events: any(
                e.type == "camera.offline" and b'"ended"' in e.raw for e in events[-1:]
            ),
            60,
        )
        assert daemon.stop()[0] == 0
    published = [json.loads(e.raw) for e in received if e.type in TYPES]
    assert all(e.gap is None for e in received if e.type in TYPES)

    result = analyse(shared, tmp_path / "out", clip, "--no-plots")
    assert result.returncode == 0, result.stderr
    written = [e for e in events_of(tmp_path / "out" / "feed") if e["type"] in TYPES]

    assert len(written) > 100
    assert [_identity(e) for e in written] == [_identity(e) for e in published]
    for ours, theirs in zip(written, published, strict=True):
        one, other = ours["data"], theirs["data"]
        for key in ("probabilities", "mean_probabilities"):
            assert one.get(key, {}) == pytest.approx(other.get(key, {}), abs=1e-4)
        assert one.get("duration_s") == pytest.approx(other.get("duration_s"), abs=1e-3)


def _identity(event: dict[str, Any]) -> tuple[object, ...]:
    """Return what has to agree exactly."""
    data = event["data"]
    keys = ("track", "box", "frame", "label", "previous", "bundle", "samples")
    return (event["type"], event["sequence"], *(data.get(key) for key in keys))
