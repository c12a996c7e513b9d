"""The live table as a value: what it keeps of events, and the lines it draws."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from streamer.board import Board
from streamer.client import Gap, Received
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionSample,
    EventData,
    FaceAppeared,
    FaceLost,
)
from streamer.snapshot import CameraState, Snapshot, TrackState
from streamer.watch_table import Link, draw
from tests.publish_fixtures import event

LIVE = Link(address="tcp://127.0.0.1:5556", connected=True)
SAMPLE = msgspec.convert(msgspec.to_builtins(event(EmotionSample).data), EmotionSample)


def received(data: EventData, *, epoch: str = "e", gap: Gap | None = None) -> Received:
    """Return an event as it comes from a subscriber."""
    return Received(
        topic="t/",
        id="1",
        source="/daemon",
        type=data.TYPE,
        subject=None,
        time="2026-01-31T12:00:00.123456Z",
        sequence=1,
        epoch=epoch,
        data=data,
        gap=gap,
        raw=b"{}",
    )


def sample(label: str, confidence: float, *, track: int = 17, latency_ms: float = 0.0) -> Received:
    """Return a reading."""
    changed = msgspec.structs.replace(
        SAMPLE, label=label, confidence=confidence, track=track, latency_ms=latency_ms
    )
    return received(changed)


def drawn(
    board: Board, link: Link = LIVE, *, now_s: float, width: int = 80, height: int = 12
) -> str:
    """Return what a terminal of that size shows, without colours."""
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(draw(board, link, now_s=now_s, size=(width, height)))
    return capture.get()


def test_the_table_of_a_face_and_an_offline_camera_is_drawn_exactly() -> None:
    """Every column of a standard terminal: bar, timeline, age, latency, sums and publisher."""
    board = Board()
    started = msgspec.structs.replace(
        event(DaemonStarted).data, cameras=("lobby", "yard"), purpose="a test"
    )
    for data in (started, event(CameraOnline).data, event(CameraOffline, "yard").data):
        board.take(received(data), 100.0)
    # Half-second cells: 100.0 to 100.5 ends as neutral, 101.0 to 101.5 as happiness.
    board.take(sample("neutral", 0.5, latency_ms=40), 100.4)
    board.take(sample("happiness", 1.0, latency_ms=60), 101.2)

    lines = drawn(board, now_s=101.4).splitlines()

    assert lines == [
        "live  tcp://127.0.0.1:5556  Q ends",
        "",
        "camera        face  expression               last 10 s               age latency",
        "● lobby         17  happiness ████████ 100%                   ▅▅█    now   50 ms",
        "● yard        offline: timeout  no frame",
        *[""] * 5,
        "1 of 2 cameras online · 1 face · 3.6 events/s · 0 missed",
        "fer@0123456789ab · onnxruntime on CPU · purpose: a test",
    ]


@pytest.mark.parametrize("width", [1, 20, 40, 79, 80, 81, 120, 200])
@pytest.mark.parametrize("height", [1, 4, 8, 40])
def test_it_never_leaves_the_terminal(width: int, height: int) -> None:
    """As many lines as there are, none too long, whatever the size and the names."""
    board = Board()
    for camera in ("a" * 60, "lobby"):
        board.take(received(event(CameraOnline, camera).data), 0.0)
    for track in range(30):
        board.take(sample("happiness", 0.9, track=track), 0.0)

    lines = drawn(board, now_s=0.1, width=width, height=height).splitlines()

    assert len(lines) == height
    assert max(map(len, lines)) <= width
    if (width, height) == (80, 8):
        assert "and 29 more rows" in "".join(lines)


def test_a_lost_face_is_shown_as_lost_and_then_goes() -> None:
    """Its row stays for three seconds, long enough to be read."""
    board = Board()
    board.take(sample("happiness", 0.9), 10.0)
    board.take(received(event(FaceLost).data), 11.0)
    board.age(13.9)
    assert "lost" in drawn(board, now_s=13.9)
    board.age(14.1)
    assert board.faces("lobby") == []


def test_a_face_whose_end_was_missed_does_not_stay_for_ever() -> None:
    """A row that nothing was heard of for half a minute goes."""
    board = Board()
    board.take(sample("happiness", 0.9), 10.0)
    board.age(39.0)
    assert len(board.faces("lobby")) == 1
    board.age(40.5)
    assert board.faces("lobby") == []


def test_a_camera_that_goes_takes_its_faces_along() -> None:
    """Nothing old is shown for an offline camera, not even by a reading that was under way."""
    board = Board()
    board.take(received(event(CameraOnline).data), 0.0)
    board.take(sample("happiness", 0.9), 0.1)
    board.take(received(event(CameraOffline).data), 0.2)
    board.take(sample("happiness", 0.9), 0.3)

    assert board.faces("lobby") == []
    assert "offline: timeout" in drawn(board, now_s=0.4)


def test_a_late_start_takes_the_state_from_the_snapshot() -> None:
    """Cameras, faces and the publisher are there before the first event, ages included."""
    aged = msgspec.structs.replace(SAMPLE, latency_ms=5000.0)
    snapshot = Snapshot(
        epoch="e",
        time="2026-01-31T12:00:00.123456Z",
        sequences={},
        daemon=None,
        cameras=[
            CameraState(camera="lobby", online=True, reason="connected"),
            CameraState(camera="yard", online=False, reason="auth_failed", detail="401"),
        ],
        tracks=[TrackState(camera="lobby", track=17, label="happiness", sample=aged)],
    )
    board = Board()
    board.start_from(snapshot, 50.0)

    text = drawn(board, now_s=50.0)
    assert "happiness" in text
    assert "5 s       -" in text  # the sample's age is no latency
    assert "offline: auth failed  401" in text


def test_a_snapshot_after_a_gap_keeps_the_history_and_drops_who_has_gone() -> None:
    """Faces that go on keep their timeline; one whose end was missed goes at once."""
    board = Board()
    for track in (17, 18):
        board.take(sample("happiness", 0.9, track=track), 10.0)
        board.take(sample("neutral", 0.6, track=track), 11.0)
    snapshot = Snapshot(
        epoch="e", time="", sequences={}, tracks=[TrackState(camera="lobby", track=18)]
    )
    board.start_from(snapshot, 12.0)

    (face,) = board.faces("lobby")
    assert (face.track, len(face.readings)) == (18, 2)


def test_another_run_of_the_publisher_starts_the_table_anew() -> None:
    """Track numbers begin again with a new epoch: old rows would be somebody else's."""
    board = Board()
    board.take(sample("happiness", 0.9), 0.0)
    gap = Gap(topic="daemon.started/", missing=0, epoch_changed=True)
    board.take(received(event(DaemonStarted).data, epoch="f", gap=gap), 1.0)

    assert board.faces("lobby") == []
    assert "publisher restarted" in drawn(board, now_s=1.0)


def test_only_the_cameras_subscribed_to_are_shown() -> None:
    """A snapshot names every camera; a table of one camera does not."""
    snapshot = Snapshot(
        epoch="e",
        time="",
        sequences={},
        cameras=[
            CameraState(camera=name, online=True, reason="connected") for name in ("lobby", "yard")
        ],
        tracks=[TrackState(camera="yard", track=1, sample=SAMPLE)],
    )
    board = Board(("emotion.sample/lobby/",))
    board.start_from(snapshot, 0.0)
    assert [row.camera for row in board.cameras] == ["lobby"]
    everything = Board(("emotion.",))
    everything.start_from(snapshot, 0.0)
    assert [row.camera for row in everything.cameras] == ["lobby", "yard"]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (Link(address="a", connected=False), "no publisher there; still trying"),
        (Link(address="a", connected=False, refused=True), "refused: check the keys"),
        (Link(address="a", connected=True, silent_s=70), "nothing sent for 1 min"),
        (Link(address="a", connected=True, missed=1234), "1,234 missed"),
        (Link(address="a", connected=True, problem="no snapshot"), "no snapshot"),
    ],
)
def test_the_connection_is_told(link: Link, words: str) -> None:
    """Whoever looks knows whether what they see is now."""
    board = Board()
    board.take(received(event(CameraOnline).data), 0.0)
    text = drawn(board, link, now_s=0.0)
    assert words in text
    assert ("its state is not known" in text) is not link.connected


def test_a_daemon_that_stops_is_announced() -> None:
    """The reason of daemon.stopping stands above the table."""
    board = Board()
    board.take(received(DaemonStopping(reason="SIGTERM")), 0.0)
    assert drawn(board, now_s=0.0).startswith("the daemon stops: SIGTERM")


def test_nothing_from_the_network_can_move_the_cursor() -> None:
    """Names, labels and reasons are text, whatever bytes they have."""
    evil = "\x1b[2J\x9b2J\n[bold]"
    board = Board()
    board.take(received(CameraOffline(camera=evil, reason=evil, detail=evil)), 0.0)
    board.take(received(msgspec.structs.replace(SAMPLE, label=evil)), 0.0)
    started = msgspec.structs.replace(event(DaemonStarted).data, purpose=evil, cameras=())
    board.take(received(started), 0.0)
    board.take(received(event(FaceAppeared).data), 0.0)

    text = drawn(board, now_s=0.0)

    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == 12
    assert "[bold]" in text
