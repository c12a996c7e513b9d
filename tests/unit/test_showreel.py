"""The demo's built-in feed: a real H.264 file whose faces are where the truth says."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from rich.console import Console

from streamer import showreel
from streamer.assets import ASSETS, install
from streamer.detect.mediapipe import FRAMINGS, MediaPipe
from streamer.detect.yunet import YuNet
from streamer.errors import ConfigError
from streamer.portrait import Portrait, cut_out
from streamer.track import FaceTracker, TrackOptions
from tests.synth import score_tracker

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.stages import Detector
    from streamer.types import U8


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the rendered film."""
    return showreel.render(tmp_path_factory.mktemp("film") / "deep" / "film.mp4")


@pytest.fixture(scope="module")
def lumas(film: Path) -> list[U8]:
    """Return every decoded luma plane."""
    planes = []
    with av.open(str(film)) as container:
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
            planes.append(rows[:, : frame.width].copy())
    return planes


def test_is_the_h264_file_it_claims_to_be(film: Path, lumas: list[U8]) -> None:
    """Size, rate, length, a keyframe a second, no reordering; nothing else is left behind."""
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (640, 360)
        assert stream.average_rate == 25
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        assert all(packet.pts == packet.dts for packet in packets)
        assert sum(packet.is_keyframe for packet in packets) >= 20
    assert len(lumas) == 500
    assert [entry.name for entry in film.parent.iterdir()] == ["film.mp4"]


def test_cameras_that_are_not_in_step_show_the_same_film(
    film: Path, lumas: list[U8], tmp_path: Path
) -> None:
    """From a keyframe on, picture for picture, and its beginning after its end."""
    turned = tmp_path / "turned.mp4"
    showreel._turn(film, turned, 4)
    with av.open(str(turned)) as container:
        frames = list(container.decode(video=0))
    assert [frame.pts for frame in frames] == [i * (frames[1].pts or 0) for i in range(500)]
    shown = [
        np.frombuffer(memoryview(frames[i].planes[0]), np.uint8).reshape(360, -1)[:, :640]
        for i in (0, 1, 250, 499)
    ]
    first = next(i for i, luma in enumerate(lumas) if np.array_equal(luma, shown[0]))
    assert 100 <= first < 125  # there is a keyframe at least every second
    for i, luma in zip((1, 250, 499), shown[1:], strict=True):
        assert np.array_equal(luma, lumas[(i + first) % 500])


def test_people_enter_cross_hide_and_leave() -> None:
    """The truth has nobody at both ends, two people side by side, swapped and hidden between."""
    assert len(showreel.truth(0.0).numbers_N) == 0
    assert len(showreel.truth(19.9).numbers_N) == 0
    before, after = showreel.truth(8.0), showreel.truth(14.0)
    assert before.numbers_N.tolist() == after.numbers_N.tolist() == [1, 2]
    assert before.boxes_N4[0, 0] < before.boxes_N4[1, 0]
    assert after.boxes_N4[0, 0] > after.boxes_N4[1, 0]
    least = min(
        (showreel.truth(t).visible_N[0] if len(showreel.truth(t).numbers_N) == 2 else 0.0)
        for t in np.arange(10.0, 12.5, 0.1)
    )
    assert least < 0.4


@pytest.mark.parametrize("name", ["yunet", "mediapipe"])
def test_detectors_find_the_faces_where_they_are(
    name: str,
    lumas: list[U8],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each detector with the tracker keeps two numbers apart over the whole film."""
    detector: Detector
    if name == "yunet":
        shared: Path = request.getfixturevalue("shared")
        detector = YuNet(shared / "models" / ASSETS["yunet"].file, input_size=480)
    else:
        try:
            path = install(ASSETS["blazeface-full"], tmp_path, report=lambda _: None)
        except ConfigError as error:
            pytest.skip(str(error))
        detector = MediaPipe(path, framing=FRAMINGS["blazeface-full"])
    times = [i / showreel.FPS for i in range(0, 500, 3)]
    frames = ((t, showreel.truth(t), detector.detect(lumas[round(t * 25)])) for t in times)
    score = score_tracker(FaceTracker(TrackOptions()), frames)
    detector.close()
    with capsys.disabled():
        sys.stdout.write(f"\nshowreel by {name}: {score}\n")
    assert score.idf1 > 0.9
    assert score.switches == 0


def test_faces_change_their_expression() -> None:
    """Between frown and smile the mouth's corners differ, and the forehead does not."""
    scene = showreel._scene()
    hopper = scene.actors[1]
    frown, smile = hopper.cutout(14.5).picture_HW4, hopper.cutout(8.5).picture_HW4
    difference = np.abs(frown.astype(int) - smile).sum(axis=2)
    assert difference[255:285, 215:245].mean() > 20
    assert difference[255:285, 290:315].mean() > 20
    assert difference[400:].max() == 0
    assert difference[122:128, 190:345].mean() < 1


def test_the_film_is_rendered_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call returns the same file untouched."""
    monkeypatch.setenv("STREAMER_ASSETS", str(tmp_path))
    monkeypatch.setattr(showreel, "SECONDS", 1)
    notes = Console(file=io.StringIO())
    path = showreel.showreel(notes)
    assert path.parent == tmp_path
    before = path.stat().st_mtime_ns
    assert showreel.showreel(notes) == path
    assert path.stat().st_mtime_ns == before


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A folder that cannot be written to and a package that is not there give one line each."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot write the demo's feed: .*STREAMER_ASSETS"):
        showreel.render(tmp_path / "file" / "film.mp4")
    absent = Portrait(
        package="not_a_package_at_all",
        file="portrait.png",
        box=(),
        eyes=(),
        mouth=(),
        brows=(),
        outline="",
    )
    with pytest.raises(ConfigError, match=r"pip install 'emotion-streamer\[demo\]'"):
        cut_out(absent)


def test_progress_ends_at_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress rises from the first frame to the last."""
    monkeypatch.setattr(showreel, "SECONDS", 1)
    shares: list[float] = []
    showreel.render(tmp_path / "film.mp4", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 25
