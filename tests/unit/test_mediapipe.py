"""MediaPipe's detector on whole pictures and tiles, and the choice between the two detectors."""

from __future__ import annotations

import sys
import threading
from importlib.resources import files
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from streamer import detect
from streamer.assets import ASSETS, install
from streamer.detect import mediapipe as module
from streamer.detect.mediapipe import FRAMINGS, MediaPipe
from streamer.detect.yunet import YuNet
from streamer.errors import ConfigError, EngineError, FrameError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.types import U8, Detections

FULL = "blazeface-full"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both BlazeFace files, from wherever they can be had, or skip."""
    path = tmp_path_factory.mktemp("assets")
    try:
        for name in FRAMINGS:
            install(ASSETS[name], path, report=lambda _: None)
    except ConfigError as error:
        pytest.skip(str(error))
    return path


@pytest.fixture(scope="module")
def detector(folder: Path) -> Iterator[MediaPipe]:
    """Return the full-range detector with one row of tiles."""
    made = MediaPipe(folder / ASSETS[FULL].file, framing=FRAMINGS[FULL])
    yield made
    made.close()


@pytest.fixture(scope="module", name="scene_HW")
def wide_scene() -> U8:
    """Return 1280x720 luma with portraits of 400, 180 and 160 pixels, a third of it face."""
    scene_HW = np.full((720, 1280), 90, np.uint8)
    for x, y, side in ((60, 200, 400), (660, 60, 180), (1000, 480, 160)):
        scene_HW[y : y + side, x : x + side] = _portrait(side)
    return scene_HW


def test_agrees_with_yunet_on_boxes_and_eyes(
    detector: MediaPipe, shared: Path, scene_HW: U8
) -> None:
    """Boxes are framed as YuNet draws them, eyes within 15 % of its width, once a face."""
    yunet = YuNet(shared / "models" / ASSETS["yunet"].file, input_size=640)
    expected = _left_to_right(yunet.detect(scene_HW))
    found = _left_to_right(detector.detect(scene_HW))
    assert len(expected[0]) == len(found[0]) == 3
    for box, other, eyes, other_eyes in zip(
        found[0], expected[0], found[1], expected[1], strict=True
    ):
        width = other[2] - other[0]
        np.testing.assert_allclose(box, other, atol=0.2 * width)
        np.testing.assert_allclose(eyes, other_eyes, atol=0.15 * width)


def test_tiles_find_what_the_whole_picture_does_not(
    detector: MediaPipe, folder: Path, scene_HW: U8
) -> None:
    """The far faces of a wide scene need tiles, and no face is reported twice."""
    whole = MediaPipe(folder / ASSETS[FULL].file, framing=FRAMINGS[FULL], rows=0)
    finer = MediaPipe(folder / ASSETS[FULL].file, framing=FRAMINGS[FULL], rows=2)
    try:
        counts = [len(one.detect(scene_HW)) for one in (whole, detector, finer)]
    finally:
        whole.close()
        finer.close()
    assert counts[0] < 3
    assert counts[1:] == [3, 3]


@pytest.mark.parametrize("name", list(FRAMINGS))
def test_both_models_find_a_portrait(folder: Path, name: str) -> None:
    """The published portrait has one face with its eyes above the middle of the box."""
    detector = MediaPipe(folder / ASSETS[name].file, framing=FRAMINGS[name])
    try:
        found = detector.detect(_portrait(400))
    finally:
        detector.close()
    assert len(found) == 1
    x0, y0, x1, y1 = found.boxes_N4[0]
    (left, right) = found.eyes_N22[0]
    assert x0 < left[0] < right[0] < x1
    assert y0 < left[1] < (y0 + y1) / 2


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1080, 1920), (540, 960), (719, 1281), (1920, 1080), (333, 999)])
def test_tiles_cover_the_picture_and_overlap(shape: tuple[int, int], rows: int) -> None:
    """Every pixel is in a square tile, and neighbours share a fifth of their side."""
    _, *tiles = module._tiles(shape, rows)
    covered = np.zeros(shape, np.bool_)
    for tile in tiles:
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = True
        assert abs(tile.width - tile.height) <= 1
        assert tile.x + tile.width <= shape[1]
        assert tile.y + tile.height <= shape[0]
    assert covered.all()
    short = {tile.y if shape[0] < shape[1] else tile.x for tile in tiles}
    assert len(short) == rows
    for starts in ({t.x for t in tiles}, {t.y for t in tiles}):
        steps = np.diff(sorted(starts))
        assert (steps <= 0.8 * tiles[0].width + 1).all()


def test_a_square_picture_is_one_tile() -> None:
    """Nothing is gained by looking twice at a picture that is no wider than high."""
    assert len(list(module._tiles((480, 480), 1))) == 1
    assert len(list(module._tiles((480, 560), 1))) == 1


def test_is_the_same_from_several_threads(detector: MediaPipe, scene_HW: U8) -> None:
    """Concurrent calls with different pictures do not mix."""
    pictures = [scene_HW, scene_HW[:, :700], scene_HW[:, ::-1]]
    expected = [detector.detect(picture).boxes_N4 for picture in pictures]
    found: dict[int, list[Detections]] = {}

    def work(index: int) -> None:
        found[index] = [detector.detect(pictures[index]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, boxes_N4 in enumerate(expected):
        for again in found[index]:
            np.testing.assert_array_equal(again.boxes_N4, boxes_N4)


def test_refuses_wrong_pictures_and_use_after_close(folder: Path, scene_HW: U8) -> None:
    """Colour is refused; closing is idempotent and use afterwards is an error."""
    made = MediaPipe(folder / ASSETS[FULL].file, framing=FRAMINGS[FULL])
    assert len(made.detect(np.full((360, 640), 128, np.uint8))) == 0
    with pytest.raises(FrameError, match="expected uint8"):
        made.detect(np.zeros((9, 9, 3), np.uint8))
    made.close()
    made.close()
    with pytest.raises(EngineError, match="closed"):
        made.detect(scene_HW)


def test_refuses_files_that_are_no_model(tmp_path: Path) -> None:
    """A missing file and garbage each give one line that names the file."""
    path = tmp_path / "face.tflite"
    with pytest.raises(ConfigError, match=r"face.tflite: cannot read"):
        MediaPipe(path, framing=FRAMINGS[FULL])
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"face.tflite: no model for MediaPipe"):
        MediaPipe(path, framing=FRAMINGS[FULL])


def test_without_the_extra_the_command_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No mediapipe package: one line with what to install, before any file is looked at."""
    monkeypatch.setattr(module, "mediapipe", None)
    monkeypatch.setattr(module, "_missing", "No module named 'mediapipe'", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'emotion-streamer\[mediapipe\]'"):
        detect.choose("mediapipe", folder=tmp_path, report=lambda _: None)
    with pytest.raises(ConfigError, match=r"no face detector: .*pip install.*YuNet cannot be had"):
        detect.choose("auto", folder=tmp_path, offline=True, report=lambda _: None)


def test_auto_takes_yunet_where_its_file_can_be_had(tmp_path: Path, shared: Path) -> None:
    """A mirror with the file is enough, and the choice says why."""
    lines: list[str] = []
    choice = detect.choose(
        "auto",
        folder=tmp_path,
        mirror=str(shared / "models"),
        offline=True,
        report=lines.append,
    )
    assert choice.backend == "yunet"
    assert choice.why.startswith("because its file can be had")
    assert lines == [f"asset yunet: installed from {shared / 'models'} (MIT)"]
    assert len(choice.detector.detect(_portrait(400))) == 1
    choice.detector.close()


def test_auto_takes_mediapipe_otherwise(folder: Path) -> None:
    """Without YuNet's file MediaPipe works, and the choice carries the reason."""
    choice = detect.choose("auto", folder=folder, offline=True, report=lambda _: None)
    try:
        assert choice.backend == "mediapipe"
        assert "because YuNet cannot be had: asset yunet" in choice.why
        assert len(choice.detector.detect(_portrait(400))) == 1
    finally:
        choice.detector.close()


def test_a_named_backend_is_never_replaced(tmp_path: Path) -> None:
    """Who asks for YuNet gets it or an error."""
    with pytest.raises(ConfigError, match=r"asset yunet: cannot be had"):
        detect.choose("yunet", folder=tmp_path, offline=True, report=lambda _: None)


def test_the_choice_imports_no_runtime_by_itself() -> None:
    """Importing the package loads neither runtime: that happens when one is chosen."""
    assert "streamer.detect" in sys.modules
    assert not hasattr(detect, "YuNet")
    assert not hasattr(detect, "MediaPipe")


def _portrait(side: int) -> U8:
    """Return the face of NASA's portrait of Eileen Collins, public domain, from scikit-image."""
    png = np.frombuffer((files("skimage.data") / "astronaut.png").read_bytes(), np.uint8)
    gray = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    face = cv2.resize(gray[:260, 90:350], (side, side), interpolation=cv2.INTER_AREA)
    return face.astype(np.uint8, copy=False)


def _left_to_right(found: Detections) -> tuple[list[np.ndarray], list[np.ndarray]]:
    order = np.argsort(found.boxes_N4[:, 0])
    return list(found.boxes_N4[order]), list(found.eyes_N22[order])
