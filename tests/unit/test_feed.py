"""The life of a camera: retries, states, counts, stops; with scripted sources."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.feed import CameraFeed
from streamer.mailbox import Mailbox
from streamer.source import CaptureOptions, Continuity, SourceInfo
from streamer.types import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamer.burst import Times
    from streamer.metrics import DropReason
    from streamer.source import DiscardReason
    from streamer.stages import Clock

PATIENCE_S = 20.0


def info(*, live: bool = True) -> SourceInfo:
    """Return what a camera, or a file, would be found to be."""
    return SourceInfo(
        codec="h264",
        width=4,
        height=2,
        declared_fps=25.0,
        pixel_format="yuv420p",
        container="rtsp" if live else "mp4",
        live=live,
        regular_file=not live,
    )


class ScriptedSource:
    """Gives so many frames, then fails for a reason; STOPPED: it blocks until told to end."""

    def __init__(
        self,
        frames: int,
        then: SourceReason,
        *,
        interrupt: threading.Event,
        continuity: Continuity,
        live: bool,
    ) -> None:
        self._left = frames
        self._then = then
        self._interrupt = interrupt
        self._continuity = continuity
        self.info = info(live=live)
        self.last_packet_ns = 0
        self.closed = False

    def read(self) -> Frame:
        """Return the next frame of the script."""
        if self._left == 0:
            if self._then is SourceReason.STOPPED:
                self._interrupt.wait()
            raise SourceError(self._then, "as scripted")
        time.sleep(0.0003)  # lets others run, as decoding does
        self._left -= 1
        self._continuity.seq += 1
        return Frame(
            camera="a",
            seq=self._continuity.seq,
            luma_HW=np.zeros((2, 4), np.uint8),
            captured_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            media_s=time.monotonic(),
        )

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class Script:
    """Plays one act an opening: a reason to refuse, or frames and a reason to fail."""

    def __init__(
        self, acts: Iterable[SourceReason | tuple[int, SourceReason]], *, live: bool = True
    ) -> None:
        self._acts: Iterator[SourceReason | tuple[int, SourceReason]] = iter(acts)
        self._live = live
        self.sources: list[ScriptedSource] = []
        self.openings = 0

    def __call__(
        self,
        options: CaptureOptions,  # noqa: ARG002 -- the signature of an opener
        clock: Clock,  # noqa: ARG002
        *,
        interrupt: threading.Event | None,
        continuity: Continuity | None,
        on_discard: Callable[[DiscardReason], None],  # noqa: ARG002
        wanted_s: Callable[[], float],  # noqa: ARG002
        on_passed: Callable[[Times], None],  # noqa: ARG002
    ) -> ScriptedSource:
        """Play the next act."""
        assert interrupt is not None
        assert continuity is not None
        self.openings += 1
        act = next(self._acts)
        if isinstance(act, SourceReason):
            raise SourceError(act, "as scripted")
        source = ScriptedSource(*act, interrupt=interrupt, continuity=continuity, live=self._live)
        self.sources.append(source)
        return source


class Diary:
    """An observer that writes everything down."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()

    def captured(self) -> None:
        """Count a frame."""
        self.counts["captured"] += 1

    def dropped(self, reason: DropReason) -> None:
        """Count a drop."""
        self.counts[f"dropped {reason}"] += 1

    def discarded(self, reason: DiscardReason) -> None:
        """Count a discarded picture."""
        self.counts[f"discarded {reason}"] += 1

    def online(self, info: SourceInfo) -> None:
        """Write it down."""
        self.lines.append(f"online {info.codec}")

    def offline(self, reason: SourceReason, detail: str) -> None:
        """Write it down."""
        assert detail == "as scripted"
        self.lines.append(f"offline {reason}")

    def reconnecting(self, reason: SourceReason) -> None:
        """Write it down."""
        self.lines.append(f"again {reason}")

    def wait_for(self, line: str) -> None:
        """Wait until a line has been written."""
        until_s = time.monotonic() + PATIENCE_S
        while line not in self.lines:
            assert time.monotonic() < until_s, f"{line!r} never came: {self.lines}"
            time.sleep(0.005)


def feed_of(
    script: Script,
    *,
    draw: float = 0.0,
    realtime: bool = True,
    loop: bool = False,
) -> tuple[CameraFeed, Diary, Mailbox]:
    """Return a feed that plays a script, with its observer and its mailbox."""
    diary, mailbox = Diary(), Mailbox(threading.Condition())
    feed = CameraFeed(
        CaptureOptions(camera="a", url="rtsp://camera/", realtime=realtime, loop=loop),
        mailbox=mailbox,
        observer=diary,
        clock=SystemClock(),
        opener=script,
        random=lambda: draw,
    )
    return feed, diary, mailbox


def finish(feed: CameraFeed) -> None:
    """Stop a feed and see that it ends."""
    feed.stop()
    assert feed.join(PATIENCE_S)
    assert not feed.alive


def test_a_camera_is_retried_until_it_comes() -> None:
    """Refusals are told once a reason, every further attempt is counted, then it is online."""
    refused, timeout = SourceReason.CONNECTION_REFUSED, SourceReason.TIMEOUT
    script = Script([refused, refused, timeout, (3, SourceReason.STOPPED)])
    feed, diary, _ = feed_of(script)
    feed.start()
    diary.wait_for("online h264")
    assert feed.state.online
    assert feed.state.reason is None
    finish(feed)
    assert diary.lines == [
        "offline connection_refused",
        "again connection_refused",
        "again connection_refused",
        "offline timeout",
        "again timeout",
        "online h264",
    ]


def test_a_lost_camera_goes_offline_and_comes_back() -> None:
    """Each loss is told with its reason, also the same one twice; numbers go on."""
    ended = SourceReason.ENDED
    script = Script([(2, ended), (2, ended), (2, SourceReason.STOPPED)])
    feed, diary, mailbox = feed_of(script)
    feed.start()
    until_s = time.monotonic() + PATIENCE_S
    while diary.counts["captured"] < 6 and time.monotonic() < until_s:
        time.sleep(0.005)
    last = mailbox.take()
    finish(feed)
    assert diary.lines == ["online h264", "offline ended", "again ended"] * 2 + ["online h264"]
    assert last is not None
    assert last.seq == 6
    assert all(source.closed for source in script.sources)


def test_an_open_stream_without_a_picture_is_not_online() -> None:
    """A camera that lets one in and sends nothing stays offline, and is closed."""
    script = Script([(0, SourceReason.TIMEOUT), (1, SourceReason.STOPPED)])
    feed, diary, _ = feed_of(script)
    feed.start()
    diary.wait_for("online h264")
    assert script.sources[0].closed
    finish(feed)
    assert diary.lines == ["offline timeout", "again timeout", "online h264"]


@pytest.mark.parametrize(("loop", "live"), [(True, False), (False, True)])
def test_what_may_come_again_is_opened_again(*, loop: bool, live: bool) -> None:
    """A stream that ended, and a looped file that did, are retried."""
    script = Script([(1, SourceReason.ENDED), (1, SourceReason.STOPPED)], live=live)
    feed, diary, _ = feed_of(script, loop=loop)
    feed.start()
    diary.wait_for("again ended")
    finish(feed)
    assert script.openings == 2


def test_a_file_that_ended_stays_offline() -> None:
    """A file without loop is read once; its thread ends, and counts as getting on."""
    script = Script([(3, SourceReason.ENDED)], live=False)
    feed, diary, _ = feed_of(script)
    feed.start()
    assert feed.join(PATIENCE_S)
    assert diary.lines == ["online h264", "offline ended"]
    assert feed.state.finished
    before_ns = time.monotonic_ns()
    assert feed.last_progress_ns >= before_ns


def test_every_captured_frame_is_accounted_for() -> None:
    """Captured = taken + dropped, over reconnects and to the end."""
    acts = [(n % 7, SourceReason.ENDED) for n in range(60)]
    script = Script([*acts, (5, SourceReason.STOPPED)])
    feed, diary, mailbox = feed_of(script)
    feed.start()
    taken = 0
    until_s = time.monotonic() + PATIENCE_S
    while script.openings < 61 and time.monotonic() < until_s:
        taken += mailbox.take() is not None
        time.sleep(0.0001)
    finish(feed)
    dropped = sum(n for name, n in diary.counts.items() if name.startswith("dropped"))
    assert mailbox.take() is None
    assert taken > 0
    assert diary.counts["captured"] == taken + dropped
    assert diary.counts["captured"] >= sum(n % 7 for n in range(60))


def test_a_frame_left_at_the_stop_is_counted() -> None:
    """What nobody took when the daemon stops was dropped because it stopped."""
    feed, diary, _ = feed_of(Script([(1, SourceReason.STOPPED)]))
    feed.start()
    diary.wait_for("online h264")
    finish(feed)
    assert diary.counts == {"captured": 1, "dropped stopped": 1}


def test_an_unpaced_file_waits_for_the_loop() -> None:
    """Without pacing no frame of a file is lost: the reader waits until each is taken."""
    feed, diary, mailbox = feed_of(Script([(50, SourceReason.ENDED)], live=False), realtime=False)
    feed.start()
    taken = 0
    until_s = time.monotonic() + PATIENCE_S
    while (feed.alive or mailbox.due) and time.monotonic() < until_s:
        taken += mailbox.take() is not None
    assert taken == 50
    assert diary.counts == {"captured": 50}


def test_stop_wakes_a_long_wait() -> None:
    """A feed in its back-off of up to a minute ends at once, without another attempt."""
    script = Script(itertools.repeat(SourceReason.CONNECTION_REFUSED))
    feed, diary, _ = feed_of(script, draw=0.999)
    feed.start()
    diary.wait_for("offline connection_refused")
    started_s = time.monotonic()
    finish(feed)
    assert time.monotonic() - started_s < 0.9
    assert script.openings == 1


def test_waiting_for_the_next_attempt_is_progress() -> None:
    """A camera that is down never looks like a thread that hangs."""
    feed, diary, _ = feed_of(Script([SourceReason.TIMEOUT]), draw=0.999)
    feed.start()
    diary.wait_for("offline timeout")
    time.sleep(0.2)
    assert time.monotonic_ns() - feed.last_progress_ns < 0.15e9
    finish(feed)


def test_a_read_that_hangs_is_no_progress() -> None:
    """A thread that does not come back from its source is seen to stand still."""
    feed, diary, _ = feed_of(Script([(1, SourceReason.STOPPED)]))
    feed.start()
    diary.wait_for("online h264")
    time.sleep(0.3)
    assert time.monotonic_ns() - feed.last_progress_ns > 0.25e9
    finish(feed)


def test_a_feed_never_started_can_be_stopped() -> None:
    """Stopping before the start is quiet, as when another camera's configuration was refused."""
    feed, diary, _ = feed_of(Script([]))
    feed.stop()
    assert feed.join(0.1)
    assert not diary.lines


def test_the_rate_is_measured() -> None:
    """Fifty frames in a burst are a high rate; before any there is none."""
    feed, diary, _ = feed_of(Script([(50, SourceReason.STOPPED)]))
    assert feed.fps == 0
    feed.start()
    diary.wait_for("online h264")
    time.sleep(0.05)
    assert feed.fps > 50
    finish(feed)
