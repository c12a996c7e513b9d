"""Which recordings are meant, and which of them are finished."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from streamer.analyse import state
from streamer.analyse.inputs import find
from streamer.analyse.order import config_of, start_of
from streamer.analyse.state import Recorded, State, folder_in_work, is_current, recorded
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"program": "1", "bundle": "b@1", "analysis": {"fps": 10.0}}


def names(inputs: list[Path], out: Path) -> list[str]:
    """Return the names that recordings get."""
    return [recording.name for recording in find(inputs, out)]


def finished(path: Path, **changes: object) -> State:
    """Make the state of a finished analysis."""
    values = {
        "input": recorded(path),
        "settings": SETTINGS,
        "outputs": (),
        "duration_s": 1.0,
        "frames": 25,
        "analysed": 10,
        "faces": 1,
    } | changes
    return msgspec.convert(values, State, from_attributes=True)


def test_a_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    """Videos by their suffix, in a stable order; what a run wrote is no recording."""
    out = tmp_path / "out"
    for name in ("b.MP4", "deep/er/a.mkv", "notes.txt", "out/b/annotated.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert names([tmp_path], out) == ["b", "a"]
    assert names([tmp_path, tmp_path / "b.MP4"], out) == ["b", "a"]


def test_a_named_file_needs_no_suffix(tmp_path: Path) -> None:
    """Nor does it have to be there: that is told when its turn comes."""
    assert names([tmp_path / "stream.bin", tmp_path / "gone"], tmp_path) == ["stream", "gone"]


def test_a_folder_without_videos_is_a_mistake(tmp_path: Path) -> None:
    """One line that says where and what was looked for."""
    with pytest.raises(ConfigError, match=r"no video in this folder .*\.mp4"):
        find([tmp_path], tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Interview 3 (Final).mov", "interview-3-final"),
        ("ÄÖÜ.mp4", "recording"),
        ("x" * 200 + ".mp4", "x" * 56),
        ("..mp4", "recording"),
    ],
)
def test_names_are_fit_for_a_camera(tmp_path: Path, file: str, name: str) -> None:
    """Lower case, and nothing that a topic or a folder could trip over."""
    assert names([tmp_path / file], tmp_path) == [name]


def test_twins_are_told_apart(tmp_path: Path) -> None:
    """Two files of one name get names of their own, the same ones in every run."""
    first, second = tmp_path / "a" / "clip.mp4", tmp_path / "b" / "clip.mp4"
    found = names([first, second], tmp_path)
    assert len(set(found)) == 2
    assert all(re.fullmatch(r"clip-[0-9a-f]{7}", name) for name in found)
    assert names([second, first], tmp_path) == found[::-1]


def test_a_folder_of_another_recording_is_not_taken(tmp_path: Path) -> None:
    """A later run with a file of the same name leaves the earlier result alone."""
    first, second = tmp_path / "a.mp4", tmp_path / "sub" / "a.mp4"
    second.parent.mkdir()
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    state.write(out / "a", finished(first))
    assert names([first], out) == ["a"]
    assert names([second], out)[0].startswith("a-")


def test_a_finished_analysis_is_known_again(tmp_path: Path) -> None:
    """By size and time; by content after a copy; not when anything that matters has changed."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"pictures")
    done = finished(path)
    assert is_current(done, path, SETTINGS)
    os.utime(path, (1, 1))
    assert is_current(done, path, SETTINGS)
    assert not is_current(done, path, SETTINGS | {"bundle": "b@2"})
    path.write_bytes(b"pictureS")
    assert not is_current(done, path, SETTINGS)
    path.unlink()
    assert not is_current(done, path, SETTINGS)


def test_the_state_is_read_back(tmp_path: Path) -> None:
    """And what is no state counts as nothing finished."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"pictures")
    done = finished(path, outputs=("plots",))
    state.write(tmp_path, done)
    assert state.read(tmp_path) == done
    for text in (b"", b"{}", b"\xff\x00", b'{"format": 2}'):
        (tmp_path / state.NAME).write_bytes(text)
        assert state.read(tmp_path) is None
    assert state.read(tmp_path / "gone") is None


def test_the_hash_is_the_files(tmp_path: Path) -> None:
    """The sha256 of "abc" as FIPS 180-2, appendix B.1, gives it."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    found = recorded(path)
    assert isinstance(found, Recorded)
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found.size == 3


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """An old result stays until the new one is complete, and a failure leaves nothing behind."""
    final = tmp_path / "clip"
    with folder_in_work(final) as work:
        (work / "data").write_text("old")
        assert not final.exists()
    with pytest.raises(ZeroDivisionError), folder_in_work(final) as work:
        (work / "data").write_text(str(1 / len("")))
    assert (final / "data").read_text() == "old"
    with folder_in_work(final) as work:
        (work / "more").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
    assert [path.name for path in final.iterdir()] == ["more"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    """A half-written folder of an earlier run does not leak into the next result."""
    (tmp_path / ".clip.unfinished").mkdir()
    (tmp_path / ".clip.unfinished" / "half").touch()
    with folder_in_work(tmp_path / "clip") as work:
        assert list(work.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_the_start_of_a_recording() -> None:
    """Nanoseconds since 1970; a time without a zone could mean anything and is refused."""
    assert start_of("") == 0
    assert start_of("1970-01-01T01:00:00.000001+01:00") == 1000
    for text in ("yesterday", "2026-01-31T12:00:00"):
        with pytest.raises(ConfigError, match="expected a time with its zone"):
            start_of(text)


def test_the_command_line_goes_before_the_configuration(tmp_path: Path) -> None:
    """Everything else is as the daemon's file says."""
    path = tmp_path / "streamer.toml"
    path.write_text(
        '[[cameras]]\nname = "a"\nurl = "x"\n[analysis]\nfps = 5.0\nmin_face_px = 30.0\n'
        "[tracker]\nlost_s = 3.0\n"
    )
    config = config_of(path, fps=20.0, mirror="/models")
    assert (config.analysis.fps, config.analysis.min_face_px) == (20.0, 30.0)
    assert (config.tracker.lost_s, config.detector.mirror) == (3.0, "/models")
    assert config_of(path, fps=None, mirror="").analysis.fps == 5.0
    assert config_of(None, fps=None, mirror="").analysis.fps == 10.0
