"""Padded batches, packed copies, captured graphs and resident states, on a device of host memory.

What is computed is compared with the bundle's two networks run one after the other on onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer import bundle
from streamer.engine import graphs
from streamer.engine.gpu import GpuEngine
from streamer.engine.onnx import OnnxEngine
from streamer.engine.resident import ResidentStates
from streamer.errors import BundleError, EngineError
from streamer.temporal import HostStates, TemporalHead
from tests.engine_fixtures import UNITS, HostDevice, HostNetwork, write_networks

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.bundle import Bundle
    from streamer.types import F32


class Rig(NamedTuple):
    """An engine with what it runs on."""

    engine: GpuEngine
    device: HostDevice
    network: HostNetwork


def rig_of(network: graphs.Network) -> Rig:
    """Return an engine over host memory."""
    device = HostDevice()
    compiled = HostNetwork(network, device)
    return Rig(GpuEngine(network, compiled, device, name="host memory"), device, compiled)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    """Return the bundle in the package."""
    return bundle.load(bundle.bundled_path())


@pytest.fixture(scope="module")
def reader_network(shipped: Bundle) -> graphs.Network:
    """Return its two networks joined, with the tables."""
    return graphs.reader(shipped.features_path, shipped.temporal_path)


@pytest.fixture(scope="module")
def summing_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two networks whose logits depend on every step so far."""
    return write_networks(tmp_path_factory.mktemp("summing"))


@pytest.fixture(scope="module")
def summing(summing_files: tuple[Path, Path]) -> graphs.Network:
    """Return them joined, with the tables."""
    return graphs.reader(*summing_files)


def faces_of(n: int, seed: int = 0, size_px: int = 48) -> F32:
    """Return noise around another brightness a face, so that any picture tells rows apart."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=(n, 1, 1, 1))
    return (level + rng.normal(size=(n, 1, size_px, size_px))).astype(np.float32)


def small_faces(n: int, seed: int = 0) -> F32:
    """Return faces for the summing networks."""
    return faces_of(n, seed, size_px=8)


def test_the_joined_network_says_what_it_is(
    reader_network: graphs.Network, shipped: Bundle
) -> None:
    """Faces and slots go in, logits come out, and a table a state stays."""
    shapes = shipped.manifest.temporal.shapes
    tables = [f"{name}_table" for name in shapes]
    assert reader_network.inputs == ("faces", "slots", "kept", *tables)
    assert reader_network.outputs == ("logits", *(f"{table}_out" for table in tables))
    assert reader_network.axes["faces"] == ("N", 1, 48, 48)
    assert reader_network.axes["h_table"] == ("C", *shapes["h"])
    assert reader_network.precision == "fp32"


def test_profiles_cover_every_bucket_once(reader_network: graphs.Network) -> None:
    """Batches of 1 to 64 have a profile, and no bucket falls between two."""
    ranges = [profile["N"] for profile in reader_network.profiles]
    assert min(least for least, _, _ in ranges) == 1
    assert max(most for _, _, most in ranges) == 64
    for bucket in graphs.BUCKETS:
        assert sum(least <= bucket <= most for least, _, most in ranges) == 1


@pytest.mark.parametrize("n", [0, 1, 3, 64, 65, 150])
def test_a_batch_of_any_size_equals_onnxruntime(shipped: Bundle, n: int) -> None:
    """Padding and splitting are not seen in the result, whatever the size."""
    rig = rig_of(graphs.batched(shipped.features_path))
    faces = faces_of(n)
    got = rig.engine.run({"faces": faces})
    expected = OnnxEngine(shipped.features_path, threads=1).run({"faces": faces})
    assert set(got) == {"features", "logits"}
    for name in got:
        assert got[name].shape == expected[name].shape
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)


def test_axes_other_than_the_first_are_padded_too(shipped: Bundle) -> None:
    """The temporal step has its rows on the second axis of its states."""
    rig = rig_of(graphs.batched(shipped.temporal_path))
    rng = np.random.default_rng(1)
    shapes = {"features": (70, shipped.manifest.features)} | {
        name: zeros.shape for name, zeros in shipped.manifest.temporal.zeros(70).items()
    }
    inputs = {
        name: rng.uniform(0.1, 1.0, size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    expected = OnnxEngine(shipped.temporal_path, threads=1).run(inputs)
    got = rig.engine.run(inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)
    assert set(rig.network.rows) == {64, 8}


def test_a_tick_is_one_launch(shipped: Bundle) -> None:
    """After the graphs are captured, a batch of any bucket costs one launch and no capture."""
    rig = rig_of(graphs.batched(shipped.features_path))
    rig.engine.warm({"faces": faces_of(1)})
    assert rig.device.captures == len(graphs.BUCKETS)
    for n in (1, 2, 3, 9, 33, 64):
        before = rig.device.launches
        rig.engine.run({"faces": faces_of(n)})
        assert rig.device.launches == before + 1
    assert rig.device.captures == len(graphs.BUCKETS)


def test_a_result_belongs_to_the_caller(shipped: Bundle) -> None:
    """The next batch overwrites the block, not what was returned."""
    rig = rig_of(graphs.batched(shipped.features_path))
    first = rig.engine.run({"faces": faces_of(2, seed=1)})["logits"]
    kept = first.copy()
    rig.engine.run({"faces": faces_of(2, seed=2)})
    np.testing.assert_array_equal(first, kept)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_resident_states_equal_states_in_memory(
    summing_files: tuple[Path, Path], summing: graphs.Network, data: st.DataObject
) -> None:
    """Tracks that come, go, pause and outgrow the table read the same as by two networks."""
    features, temporal = (OnnxEngine(path, threads=1) for path in summing_files)
    on_host = TemporalHead(
        HostStates(temporal, {"h": (1, UNITS), "c": (1, UNITS)}), gap_reset_s=1.0
    )
    on_device = TemporalHead(ResidentStates(rig_of(summing).engine), gap_reset_s=1.0)
    media_s = 0.0
    for step in range(6):
        media_s += data.draw(st.sampled_from([0.1, 0.1, 2.0]))
        tracks = data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=150, unique=True))
        keys = [("lobby", track) for track in tracks]
        faces, times = small_faces(len(keys), seed=step), [media_s] * len(keys)
        read = features.run({"faces": faces})["features"]
        np.testing.assert_allclose(
            on_device.step(faces, keys, times), on_host.step(read, keys, times), atol=1e-5
        )
        gone = data.draw(st.lists(st.sampled_from(keys), max_size=5))
        on_host.evict(gone)
        on_device.evict(gone)


def test_the_shipped_networks_read_the_same_joined(
    shipped: Bundle, reader_network: graphs.Network
) -> None:
    """Four steps of six faces: the joined network gives what the bundle's two give."""
    features = OnnxEngine(shipped.features_path, threads=1)
    shape = shipped.manifest.temporal
    temporal = OnnxEngine(shipped.temporal_path, threads=1)
    states = HostStates(temporal, shape.shapes)
    on_host = TemporalHead(states, gap_reset_s=1.0)
    on_device = TemporalHead(ResidentStates(rig_of(reader_network).engine), gap_reset_s=1.0)
    keys = [("lobby", track) for track in range(6)]
    for step in range(4):
        faces = np.roll(shipped.parity.faces_N1HW, step, axis=0)
        read = features.run({"faces": faces})["features"]
        times = [0.1 * step] * len(keys)
        np.testing.assert_allclose(
            on_device.step(faces, keys, times), on_host.step(read, keys, times), atol=1e-5
        )


def logits_after(*brightness: float) -> F32:
    """Compute the summing networks' logits by hand: h' = h / 2 + x and c' = c + h'."""
    h = c = np.zeros(UNITS)
    for value in brightness:
        h = h / 2 + value * np.arange(1, UNITS + 1)
        c = c + h
    return np.concatenate([h, c])[None].astype(np.float32)


def face_of(brightness: float) -> F32:
    """Return one face of one brightness."""
    return np.full((1, 1, 8, 8), brightness, np.float32)


def test_a_table_that_grows_keeps_its_rows(summing: graphs.Network) -> None:
    """More tracks than the first table holds: the older ones go on where they were."""
    engine = rig_of(summing).engine
    states = ResidentStates(engine)
    states.reserve(8)
    slot, fresh, kept = np.array([7]), np.ones(1, np.bool_), np.zeros(1, np.bool_)
    states.step(face_of(1.0), slot, fresh)
    states.reserve(5 * graphs.FIRST_SLOTS)
    crowd = np.arange(8, 5 * graphs.FIRST_SLOTS)
    states.step(small_faces(len(crowd)), crowd, np.ones(len(crowd), np.bool_))
    assert engine.slots == 8 * graphs.FIRST_SLOTS
    np.testing.assert_allclose(
        states.step(face_of(3.0), slot, kept), logits_after(1.0, 3.0), rtol=1e-6
    )


def test_a_state_that_went_bad_ends_with_its_track(summing: graphs.Network) -> None:
    """A track that starts in a slot full of NaN reads as one in a clean slot."""
    rig = rig_of(summing)
    states = ResidentStates(rig.engine)
    states.reserve(6)
    slot = np.array([5])
    states.step(face_of(np.nan), slot, np.ones(1, np.bool_))
    assert np.isnan(states.step(face_of(1.0), slot, np.zeros(1, np.bool_))).all()
    np.testing.assert_allclose(
        states.step(face_of(1.0), slot, np.ones(1, np.bool_)), logits_after(1.0)
    )


def test_two_heads_share_an_engine_and_no_row(summing: graphs.Network) -> None:
    """Each head has rows of its own, and they are free again when it is gone."""
    engine = rig_of(summing).engine
    slot, fresh, kept = np.array([0]), np.ones(1, np.bool_), np.zeros(1, np.bool_)
    one, two = ResidentStates(engine), ResidentStates(engine)
    one.reserve(100)
    two.reserve(100)
    one.step(face_of(1.0), slot, fresh)
    two.step(face_of(5.0), slot, fresh)
    np.testing.assert_allclose(one.step(face_of(2.0), slot, kept), logits_after(1.0, 2.0))
    np.testing.assert_allclose(two.step(face_of(2.0), slot, kept), logits_after(5.0, 2.0))
    del one, two
    for _ in range(9):
        ResidentStates(engine).reserve(100)
    assert engine.slots == graphs.FIRST_SLOTS


def test_everything_is_given_back(summing: graphs.Network) -> None:
    """Closing frees all memory and the device, once."""
    rig = rig_of(summing)
    states = ResidentStates(rig.engine)
    states.reserve(3)
    states.step(small_faces(3), np.arange(3), np.ones(3, np.bool_))
    states.reserve(2 * graphs.FIRST_SLOTS)
    rig.engine.close()
    rig.engine.close()
    assert not rig.device.memory
    assert not rig.device.locked
    assert rig.device.closed
    assert rig.network.closed == 1
    with pytest.raises(EngineError, match="after it was closed"):
        states.step(small_faces(1), np.arange(1), np.ones(1, np.bool_))


def test_wrong_inputs_are_refused_by_name(shipped: Bundle) -> None:
    """A missing input, a wrong size and unequal rows are each said before anything runs."""
    engine = rig_of(graphs.batched(shipped.temporal_path)).engine
    states = shipped.manifest.temporal.zeros(2)
    whole = {"features": np.zeros((2, shipped.manifest.features), np.float32), **states}
    state = states["h"]
    units = state.shape[2]
    with pytest.raises(EngineError, match=r"temporal: got \[.*'features'.*\]"):
        engine.run({name: value for name, value in whole.items() if name != "h"})
    with pytest.raises(EngineError, match=rf"temporal: h has shape \(1, 2, {units - 1}\)"):
        engine.run({**whole, "h": state[:, :, 1:]})
    with pytest.raises(EngineError, match=r"\[1, 2\] rows"):
        engine.run({**whole, "h": state[:, :1]})


def test_a_failing_gpu_is_an_engine_error(shipped: Bundle) -> None:
    """What the runtime says reaches the caller, and the engine can still be closed."""
    rig = rig_of(graphs.batched(shipped.features_path))
    rig.network.fail = "features: TensorRT failed: out of memory"
    with pytest.raises(EngineError, match="out of memory"):
        rig.engine.run({"faces": faces_of(1)})
    rig.engine.close()
    assert not rig.device.memory


def test_a_table_that_cannot_grow_stays_as_it_was(summing: graphs.Network) -> None:
    """Out of memory is told, nothing leaks, and the tracks that are there go on."""
    rig = rig_of(summing)
    states = ResidentStates(rig.engine)
    states.reserve(8)
    slot = np.array([7])
    states.step(face_of(1.0), slot, np.ones(1, np.bool_))
    used = sum(block.nbytes for block in rig.device.memory.values())
    rig.device.room = used + 4 * UNITS * 3 * graphs.FIRST_SLOTS
    with pytest.raises(EngineError, match="out of memory"):
        states.reserve(2 * graphs.FIRST_SLOTS)
    assert sum(block.nbytes for block in rig.device.memory.values()) == used
    np.testing.assert_allclose(
        states.step(face_of(3.0), slot, np.zeros(1, np.bool_)), logits_after(1.0, 3.0)
    )


@pytest.mark.parametrize("room", [0, 256 * 4, 4 * 48 * 48 + 256])
def test_no_room_for_a_batch_leaks_nothing(shipped: Bundle, room: int) -> None:
    """Whichever block does not fit, those that did are given back."""
    rig = rig_of(graphs.batched(shipped.features_path))
    rig.device.room = room
    with pytest.raises(EngineError, match="out of memory"):
        rig.engine.run({"faces": faces_of(1)})
    assert not rig.device.memory
    assert not rig.device.locked


def test_shares_add_up_to_the_whole(shipped: Bundle) -> None:
    """Transfer and compute are the device's, the rest of the time is launching."""
    rig = rig_of(graphs.batched(shipped.features_path))
    shares = rig.engine.measure({"faces": faces_of(8)}, rounds=2)
    assert shares.transfer_s == pytest.approx(2e-3)
    assert shares.compute_s == pytest.approx(1e-3)
    assert shares.total_s > 0


def test_a_detector_of_many_shapes_keeps_the_newest(shared: Path) -> None:
    """Each picture shape is captured once; the store of them is bounded."""
    from streamer.detect import yunet_graph  # noqa: PLC0415 needs the file that may be missing

    content = yunet_graph.luma_network(shared / "models" / "face_detection_yunet_2026may.onnx")
    rig = rig_of(graphs.detector(content, 320))
    wide, tall = np.zeros((1, 1, 192, 320), np.float32), np.zeros((1, 1, 320, 192), np.float32)
    for picture in (wide, tall, wide):
        assert rig.engine.run({"input": picture})["anchors"].shape == (1, 10, 1260)
    assert rig.device.captures == 2


def test_networks_that_do_not_fit_are_refused(shipped: Bundle, tmp_path: Path) -> None:
    """Two files in the wrong order, and a file that is no network, are a bundle's error."""
    with pytest.raises(BundleError, match="does not fit"):
        graphs.reader(shipped.temporal_path, shipped.temporal_path)
    broken = tmp_path / "features.onnx"
    broken.write_bytes(b"\xff not a network")
    with pytest.raises(BundleError, match="not an ONNX file"):
        graphs.batched(broken)
    with pytest.raises(BundleError, match="No such file"):
        graphs.batched(tmp_path / "none.onnx")
