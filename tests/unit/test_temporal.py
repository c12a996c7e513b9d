"""The slot table: each track has its own state; the real network steps as it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer import bundle
from streamer.engine.onnx import OnnxEngine
from streamer.errors import EngineError
from streamer.temporal import HostStates, TemporalHead
from tests.fakes import FakeEngine

if TYPE_CHECKING:
    from streamer.types import F32


def counting_engine() -> FakeEngine:
    """Return an engine whose state counts the steps of a track and whose logits tell the count."""
    return FakeEngine(
        {
            "h_out": lambda x: x["h"] + 1.0,
            "c_out": lambda x: x["c"] + x["features"][None, :, :1],
            "logits": lambda x: np.stack(
                [x["h"][0, :, 0], np.zeros(len(x["features"]), np.float32)], axis=1
            ),
        }
    )


def head_of(engine: FakeEngine, gap_reset_s: float = 1.0) -> TemporalHead:
    """Return a head with one layer of one unit."""
    return TemporalHead(HostStates(engine, {"h": (1, 1), "c": (1, 1)}), gap_reset_s=gap_reset_s)


def steps_of(probabilities: F32) -> F32:
    """Read the count of earlier steps back out of softmax([count, 0])."""
    counts: F32 = np.log(probabilities[:, 0] / probabilities[:, 1]).round(3)
    return counts


def ones(n: int) -> F32:
    """Return features of n faces."""
    return np.ones((n, 1), np.float32)


def test_states_of_tracks_never_mix() -> None:
    """Tracks that come and go in any order count their own steps."""
    head = head_of(counting_engine())
    a, b, other = ("lobby", 1), ("lobby", 2), ("door", 1)
    assert steps_of(head.step(ones(2), [a, b], [0.0, 0.0])).tolist() == [0, 0]
    assert steps_of(head.step(ones(2), [b, other], [0.1, 0.1])).tolist() == [1, 0]
    assert steps_of(head.step(ones(3), [other, a, b], [0.2, 0.2, 0.2])).tolist() == [1, 1, 2]


def test_a_gap_in_time_and_a_jump_back_reset_the_state() -> None:
    """What a face showed long ago, or on another clock, says nothing about now."""
    head = head_of(counting_engine(), gap_reset_s=1.0)
    key = [("lobby", 1)]
    got = [steps_of(head.step(ones(1), key, [t]))[0] for t in (0.0, 0.5, 1.5, 2.6, 2.7, 1.0)]
    assert got == [0, 1, 2, 0, 1, 0]


def test_a_slot_is_reused_from_zero() -> None:
    """An evicted track leaves nothing to the one that gets its slot."""
    head = head_of(counting_engine())
    head.step(ones(1), [("lobby", 1)], [0.0])
    head.step(ones(1), [("lobby", 1)], [0.1])
    head.evict([("lobby", 1), ("never", 9)])
    assert len(head) == 0
    assert steps_of(head.step(ones(1), [("lobby", 2)], [0.2])).tolist() == [0]


def test_the_table_grows() -> None:
    """More tracks than slots is no error, and no state is lost by it."""
    head = head_of(counting_engine())
    first = [("lobby", i) for i in range(50)]
    head.step(ones(50), first, [0.0] * 50)
    more = [("door", i) for i in range(200)]
    head.step(ones(200), more, [0.0] * 200)
    assert steps_of(head.step(ones(50), first, [0.1] * 50)).tolist() == [1] * 50
    assert len(head) == 250


def test_a_failing_engine_leaves_the_states() -> None:
    """A step that failed has not happened."""
    engine = counting_engine()
    head = head_of(engine)
    key = [("lobby", 1)]
    head.step(ones(1), key, [0.0])
    engine.fail = EngineError("out of memory")
    with pytest.raises(EngineError):
        head.step(ones(1), key, [0.1])
    engine.fail = None
    assert steps_of(head.step(ones(1), key, [0.2])).tolist() == [1]


def test_rows_must_agree() -> None:
    """A wrong number of rows, or a track named twice, is refused before the network runs."""
    head = head_of(counting_engine())
    with pytest.raises(ValueError, match="2 rows"):
        head.step(ones(2), [("a", 1)], [0.0])
    with pytest.raises(ValueError, match="twice"):
        head.step(ones(2), [("a", 1), ("a", 1)], [0.0, 0.0])


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_stepping_in_any_batches_equals_the_sequence(data: st.DataObject) -> None:
    """The shipped network, stepped in batches of random tracks, gives each track's own sequence."""
    shipped = bundle.load(bundle.bundled_path())
    manifest = shipped.manifest
    engine = OnnxEngine(shipped.temporal_path, threads=1)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    tracks, steps = 4, 6
    features = rng.normal(size=(tracks, steps, manifest.features)).astype(np.float32)

    def new_head() -> TemporalHead:
        states = HostStates(engine, manifest.temporal.shapes)
        return TemporalHead(states, gap_reset_s=10.0)

    alone = np.stack(
        [
            np.stack(
                [head.step(features[i, t][None], [("c", i)], [t / 10])[0] for t in range(steps)]
            )
            for i, head in ((i, new_head()) for i in range(tracks))
        ]
    )
    together, position = new_head(), [0] * tracks
    while min(position) < steps:
        left = [i for i in range(tracks) if position[i] < steps]
        chosen = data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
        batch = np.stack([features[i, position[i]] for i in chosen])
        got = together.step(batch, [("c", i) for i in chosen], [position[i] / 10 for i in chosen])
        for row, i in enumerate(chosen):
            np.testing.assert_allclose(got[row], alone[i, position[i]], atol=1e-5)
            position[i] += 1
