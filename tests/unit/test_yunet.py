"""YuNet on onnxruntime against OpenCV's own implementation of the same network."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.detect.yunet import YuNet
from streamer.errors import ConfigError, EngineError, FrameError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.types import U8, Detections


@pytest.fixture(scope="module")
def model_path(shared: Path) -> Path:
    """Return the YuNet file."""
    return shared / "models" / "face_detection_yunet_2026may.onnx"


@pytest.fixture(scope="module")
def yunet(model_path: Path) -> Iterator[YuNet]:
    """Return a detector of 640 pixels."""
    detector = YuNet(model_path, input_size=640)
    yield detector
    detector.close()


@pytest.fixture(scope="module", name="luma_HW")
def three_faces() -> U8:
    """Return three copies of a public-domain portrait at different sizes, gray, 640x384."""
    face_HW = _portrait()[:260, 90:350]
    picture_HW = np.full((384, 640), 90, np.uint8)
    for x, y, side in ((10, 60, 240), (300, 20, 160), (500, 200, 100)):
        picture_HW[y : y + side, x : x + side] = _resized(face_HW, (side, side))
    return picture_HW


def test_equals_opencvs_own_implementation(yunet: YuNet, model_path: Path, luma_HW: U8) -> None:
    """Folding, scaling and decoding give what OpenCV's FaceDetectorYN gives for a gray picture."""
    reference = cv2.FaceDetectorYN.create(str(model_path), "", (640, 384), 0.6, 0.3)
    _, faces = reference.detect(cv2.cvtColor(luma_HW, cv2.COLOR_GRAY2BGR))
    faces = faces[np.argsort(-faces[:, 14])]

    found = yunet.detect(luma_HW)

    assert len(found) == len(faces) == 3
    expected_N4 = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1)
    # OpenCV cuts boxes to whole pixels.
    np.testing.assert_allclose(found.boxes_N4, expected_N4, atol=1.01)
    np.testing.assert_allclose(found.scores_N, faces[:, 14], atol=1e-4)
    np.testing.assert_allclose(found.eyes_N22, faces[:, 4:8].reshape(-1, 2, 2), atol=0.05)


@pytest.mark.parametrize("size", [(1920, 1152), (1280, 768), (320, 192)])
def test_boxes_are_in_pixels_of_the_picture_given(
    yunet: YuNet, luma_HW: U8, size: tuple[int, int]
) -> None:
    """A picture scaled by k gives boxes and eyes scaled by k."""
    factor = size[0] / luma_HW.shape[1]
    expected = yunet.detect(luma_HW)
    found = yunet.detect(_resized(luma_HW, size))
    # Resampling moves a face by a small share of its size.
    matched = [
        int(np.abs(found.boxes_N4 / factor - box).sum(1).argmin()) for box in expected.boxes_N4
    ]
    assert sorted(matched) == [0, 1, 2]
    np.testing.assert_allclose(found.boxes_N4[matched] / factor, expected.boxes_N4, atol=4.0)
    np.testing.assert_allclose(found.eyes_N22[matched] / factor, expected.eyes_N22, atol=3.0)


def test_reads_a_view_with_padded_rows(yunet: YuNet, luma_HW: U8) -> None:
    """A decoder's plane has wider rows than the picture; nothing but the picture counts."""
    plane = np.full((384, 704), 255, np.uint8)
    plane[:, :640] = luma_HW
    view = plane[:, :640]
    view.flags.writeable = False
    _assert_same(yunet.detect(view), yunet.detect(luma_HW))


def test_is_the_same_from_several_threads(yunet: YuNet, luma_HW: U8) -> None:
    """Threads that work on pictures of different shapes do not write into one another's input."""
    pictures = [luma_HW, luma_HW[:, :400], luma_HW[:250], luma_HW[:, ::-1]]
    expected = [yunet.detect(picture) for picture in pictures]
    found: dict[int, list[Detections]] = {}

    def work(index: int) -> None:
        found[index] = [yunet.detect(pictures[index]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, one in enumerate(expected):
        for again in found[index]:
            _assert_same(again, one)


def test_nothing_in_an_empty_scene(yunet: YuNet) -> None:
    """A flat picture has no face and the result has zero rows."""
    found = yunet.detect(np.full((360, 640), 128, np.uint8))
    assert len(found) == 0
    assert found.boxes_N4.shape == (0, 4)
    assert found.eyes_N22.shape == (0, 2, 2)


def test_the_left_eye_in_the_picture_comes_first(yunet: YuNet, luma_HW: U8) -> None:
    """Mirrored or not, the first eye has the smaller x."""
    for picture in (luma_HW, luma_HW[:, ::-1]):
        found = yunet.detect(picture)
        assert len(found) == 3
        assert (found.eyes_N22[:, 0, 0] < found.eyes_N22[:, 1, 0]).all()


@pytest.mark.parametrize(
    "picture", [np.zeros((0, 10), np.uint8), np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9))]
)
def test_refuses_what_is_no_luma_plane(yunet: YuNet, picture: U8) -> None:
    """Colour, floats and nothing are refused with their type and shape."""
    with pytest.raises(FrameError, match="expected uint8"):
        yunet.detect(picture)


def test_survives_tiny_pictures(yunet: YuNet) -> None:
    """One pixel is a picture too."""
    assert len(yunet.detect(np.zeros((1, 1), np.uint8))) == 0
    assert len(yunet.detect(np.zeros((1, 4000), np.uint8))) == 0


def test_closed_twice_then_refuses(model_path: Path, luma_HW: U8) -> None:
    """Closing is idempotent and use afterwards is an error."""
    detector = YuNet(model_path, input_size=320)
    detector.close()
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        detector.detect(luma_HW)


@pytest.mark.parametrize("size", [0, 31, 300, -32])
def test_refuses_sizes_the_strides_do_not_divide(tmp_path: Path, size: int) -> None:
    """The size is checked before the file is touched."""
    with pytest.raises(ConfigError, match=r"detector.input_size is .*multiple of 32"):
        YuNet(tmp_path / "none.onnx", input_size=size)


def test_refuses_files_that_are_no_yunet(tmp_path: Path) -> None:
    """A missing file, garbage and another network each give one line that names the file."""
    path = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match=r"model.onnx: cannot read"):
        YuNet(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"model.onnx: not an ONNX file"):
        YuNet(path)
    first = np.zeros((16, 3, 3, 3), np.float32)
    headless = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["cls_8"], kernel_shape=[3, 3])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("cls_8", TensorProto.FLOAT, [1, 16, "h", "w"])],
        [numpy_helper.from_array(first, "w")],
    )
    onnx.save(helper.make_model(headless), path)
    with pytest.raises(ConfigError, match=r"model.onnx: no YuNet: expected heads"):
        YuNet(path)
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["y"])], "g", [value], [value])
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(ConfigError, match=r"model.onnx: no YuNet"):
        YuNet(path)


def _portrait() -> U8:
    """Return NASA's portrait of Eileen Collins, public domain, as scikit-image carries it."""
    png = np.frombuffer((files("skimage.data") / "astronaut.png").read_bytes(), np.uint8)
    gray = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    return gray.astype(np.uint8, copy=False)


def _resized(luma_HW: U8, size: tuple[int, int]) -> U8:
    return cv2.resize(luma_HW, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _assert_same(one: Detections, other: Detections) -> None:
    np.testing.assert_array_equal(one.boxes_N4, other.boxes_N4)
    np.testing.assert_array_equal(one.scores_N, other.scores_N)
    np.testing.assert_array_equal(one.eyes_N22, other.eyes_N22)
