"""The live stream: pictures and faces of one frame together, newest first, for who asks only."""

from __future__ import annotations

import http.client
import json
import struct
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from streamer.web.picture import encode
from tests.fakes_web import Drawing, frame, reading
from tests.website import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.types import BGR
    from tests.website import Site


def until_watched(site: Site, watchers: int = 1) -> None:
    """Wait for as many open streams."""
    deadline = time.monotonic() + 5
    while site.value("live_viewers") != watchers:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Watcher:
    """An open stream, read message by message."""

    def __init__(self, port: int, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.request("GET", f"/api/live?{query}")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200

    def message(self) -> tuple[dict[str, Any], bytes]:
        """Read one message: its header and its picture."""
        text, picture = struct.unpack("!II", self._answer.read(8))
        header: dict[str, Any] = json.loads(self._answer.read(text))
        return header, self._answer.read(picture)

    def frame(self) -> tuple[dict[str, Any], bytes]:
        """Read on to the next frame."""
        while True:
            header, picture = self.message()
            if header["type"] == "frame":
                return header, picture

    def close(self) -> None:
        """Go away."""
        self._answer.close()
        self._connection.close()


@contextmanager
def watching(site: Site, query: str = "") -> Iterator[Watcher]:
    """Open a stream and close it."""
    watcher = Watcher(site.port, query)
    until_watched(site, int(site.value("live_viewers")) or 1)
    try:
        yield watcher
    finally:
        watcher.close()


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that shows pictures."""
    with serving() as site:
        yield site


def colour(blue: int, green: int, red: int) -> Drawing:
    """Return a 640x360 picture of one colour."""
    return Drawing(np.full((360, 640, 3), (blue, green, red), np.uint8))


def decoded(jpeg: bytes) -> BGR:
    """Decode a picture by OpenCV."""
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def test_the_first_message_tells_about_every_camera(site: Site) -> None:
    """Whoever opens the stream knows at once what there is."""
    site.state.online("lobby", "rtsp://bob:hunter2@cam/1")
    with watching(site) as watcher:
        header, picture = watcher.message()
    assert header["type"] == "status"
    assert header["about"]["version"] == "0.1.0"
    assert [camera["name"] for camera in header["cameras"]] == ["lobby"]
    assert header["cameras"][0]["url"] == "rtsp://***@cam/1"
    assert picture == b""


def test_a_message_carries_picture_and_faces_of_one_frame(site: Site) -> None:
    """The colour of the picture and the face's box tell the same frame number."""
    with watching(site) as watcher:
        for seq in (1, 2, 3):
            # The red of the picture and the left edge of the box both are 60 times the number.
            site.live.offer(
                frame("lobby", seq, colour(0, 0, 60 * seq)),
                [reading(7, (60 * seq, 10, 60 * seq + 50, 80), "happiness")],
            )
            header, jpeg = watcher.frame()
            assert (header["camera"], header["seq"]) == ("lobby", seq)
            assert (header["width"], header["height"]) == (640, 360)
            (face,) = header["tracks"]
            assert face["box"][0] == 60 * seq
            assert (face["track"], face["label"]) == (7, "happiness")
            assert face["probabilities"]["happiness"] == 0.79
            assert abs(int(decoded(jpeg)[180, 320, 2]) - 60 * seq) <= 3
            assert 0 <= header["age_ms"] < 5000


def test_while_nobody_watches_nothing_is_converted_or_kept(site: Site) -> None:
    """The pipeline pays for a person who looks, and for nobody else."""
    before = colour(10, 20, 30)
    site.live.offer(frame("lobby", 1, before), [])
    with watching(site) as watcher:
        seen = colour(40, 50, 60)
        site.live.offer(frame("lobby", 2, seen), [])
        assert watcher.frame()[0]["seq"] == 2
    until_watched(site, 0)
    after = colour(70, 80, 90)
    site.live.offer(frame("lobby", 3, after), [])
    time.sleep(0.1)
    assert (before.asked, seen.asked, after.asked) == (0, 1, 0)
    assert [kept.frame for kept in site.live._newest.values()] == [None]
    assert site.value("live_pictures_total", camera="lobby") == 1


def test_watchers_share_what_is_encoded(site: Site) -> None:
    """Five who look cost one conversion."""
    watchers = [Watcher(site.port) for _ in range(5)]
    until_watched(site, 5)
    picture = colour(1, 2, 3)
    site.live.offer(frame("lobby", 1, picture), [])
    assert [watcher.frame()[0]["seq"] for watcher in watchers] == [1] * 5
    assert picture.asked == 1
    for watcher in watchers:
        watcher.close()
    until_watched(site, 0)


def test_a_slow_watcher_sees_new_frames_and_delays_nobody(site: Site) -> None:
    """One that reads nothing for two seconds neither blocks the pipeline nor gets a backlog."""
    noise = np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8)
    with watching(site) as slow, watching(site) as quick:
        until_watched(site, 2)
        newest = [0]

        def read() -> None:
            while newest[0] < 400:
                newest[0] = quick.frame()[0]["seq"]

        reader = threading.Thread(target=read)
        reader.start()
        longest_s = 0.0
        for seq in range(1, 401):
            offered = frame("lobby", seq, Drawing(noise))
            begun = time.perf_counter()
            site.live.offer(offered, [])
            longest_s = max(longest_s, time.perf_counter() - begun)
            time.sleep(0.005)
        reader.join(10)
        assert newest[0] == 400
        assert longest_s < 0.1
        received: list[int] = []
        while not received or received[-1] != 400:
            received.append(slow.frame()[0]["seq"])
        # What was under way in the sockets is old; all the rest was skipped, not queued.
        assert len(received) < 100
        assert received == sorted(received)


def test_a_watcher_may_ask_for_some_cameras_without_pictures(site: Site) -> None:
    """Boxes and names alone cost no encoding, and other cameras stay out."""
    with watching(site, "cameras=lobby,yard&pictures=0") as watcher:
        picture = colour(1, 2, 3)
        site.live.offer(frame("attic", 1, picture), [])
        site.live.offer(frame("yard", 5, picture), [reading(2, (1, 2, 3, 4), "fear")])
        header, jpeg = watcher.frame()
        assert (header["camera"], header["picture"], jpeg) == ("yard", "omit", b"")
        assert header["tracks"][0]["label"] == "fear"
        assert picture.asked == 0


@pytest.mark.parametrize(("asked", "width"), [("320", 320), ("640", 640), ("1280", 640)])
def test_the_width_is_what_was_asked_for_and_never_more_than_there_is(
    site: Site, asked: str, width: int
) -> None:
    """A small tile gets a small picture; a large one no invented pixels."""
    with watching(site, f"width={asked}") as watcher:
        site.live.offer(frame("lobby", 1, colour(1, 2, 3)), [])
        assert decoded(watcher.frame()[1]).shape == (width * 9 // 16, width, 3)


def test_a_camera_without_colour_is_shown_in_grey(site: Site) -> None:
    """The luma plane is enough for a picture."""
    with watching(site) as watcher:
        site.live.offer(frame("lobby", 1, luma=200), [])
        picture = decoded(watcher.frame()[1])
        assert np.abs(picture.astype(int) - 200).max() <= 2


def test_the_privacy_mode_blurs_beyond_recognition() -> None:
    """A checkerboard of 16 px, finer than any face one could recognise, comes out as plain grey."""
    board = np.kron(np.indices((24, 40)).sum(0) % 2, np.ones((15, 16))).astype(np.uint8) * 255
    assert board.shape == (360, 640)
    picture = Drawing(np.repeat(board[:, :, None], 3, axis=2))
    with serving(pictures="blur") as site, watching(site, "pictures=1") as watcher:
        site.live.offer(frame("lobby", 1, picture), [])
        header, jpeg = watcher.frame()
    assert header["picture"] == "blur"
    shown = decoded(jpeg)
    assert shown.shape == (360, 640, 3)
    assert picture.asked == 1
    assert shown.std() < 12
    assert board.std() > 127


def test_the_privacy_mode_omits_whatever_is_asked_for() -> None:
    """No request can talk the server into a picture; boxes still come."""
    picture = colour(1, 2, 3)
    with serving(pictures="omit") as site, watching(site, "pictures=1&width=1280") as watcher:
        site.live.offer(frame("lobby", 1, picture), [reading(1, (1, 2, 3, 4), "anger")])
        header, jpeg = watcher.frame()
    assert (header["picture"], jpeg, picture.asked) == ("omit", b"", 0)
    assert len(header["tracks"]) == 1


def test_watchers_come_and_go(site: Site) -> None:
    """Streams that break leave nothing behind."""
    for _ in range(5):
        watchers = [Watcher(site.port) for _ in range(4)]
        until_watched(site, 4)
        for watcher in watchers:
            watcher.close()
        until_watched(site, 0)
    assert not site.live._watchers
    assert not site.live._encoded


def test_the_number_of_watchers_is_bounded(site: Site) -> None:
    """One more than can be served is told so, and the health checks still answer."""
    watchers = [Watcher(site.port) for _ in range(32)]
    until_watched(site, 32)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    for path, status in (("/api/live", 503), ("/livez", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (status, True)
    connection.close()
    for watcher in watchers:
        watcher.close()
    until_watched(site, 0)


def test_frames_offered_after_the_end_do_no_harm() -> None:
    """The pipeline may hand over a frame while the server stops."""
    with serving() as site, watching(site):
        assert site.server.stop(5.0)
        site.live.offer(frame("lobby", 1, colour(1, 2, 3)), [])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 4000), (1920, 1080), (17, 3)])
def test_any_size_can_be_encoded(width: int, height: int) -> None:
    """Odd shapes keep at least one pixel and their aspect ratio."""
    picture = Drawing(np.zeros((height, width, 3), np.uint8))
    offered = frame("lobby", 1, picture)
    sized = type(offered)(
        camera="lobby",
        seq=1,
        luma_HW=np.zeros((height, width), np.uint8),
        captured_ns=0,
        monotonic_ns=0,
        media_s=0.0,
        picture=picture,
    )
    for mode in ("show", "blur"):
        shown = decoded(encode(sized, mode, 640))
        assert shown.shape[1] == min(640, width)
        assert shown.shape[0] == max(1, round(height * min(1, 640 / width)))
