"""Camera or file to frames, through FFmpeg: opening, reading, decoding, and the time of each."""

from __future__ import annotations

import errno
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import av
from av.codec.context import ThreadType
from av.stream import Disposition
from av.video.stream import VideoStream

from streamer import reach
from streamer.burst import Burst, Times
from streamer.errors import SourceError, SourceReason
from streamer.faults import fault_of
from streamer.picture import Upright
from streamer.source import CaptureOptions, Continuity, DiscardReason, SourceInfo
from streamer.timeline import FileTimeline, LiveTimeline, Pacer, RtcpClock
from streamer.types import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

    from streamer.stages import Clock

__all__ = ["MediaSource", "open_source"]

NS: Final = 1_000_000_000
MAX_BROKEN: Final = 50
"""Packets in a row that do not decode: two seconds at 25 fps; a lossy network loses far fewer."""
CLEAN_WITHIN_S: Final = 30.0
"""Longest time without a clean picture while data comes: cameras' longest usual GOP is 10 s, and
those that stretch it for still scenes stay under 20 s."""
MAX_PIXELS: Final = 1 << 26
"""Twice an 8K picture; a stream that claims more would take gigabytes."""

_TIMELESS: Final = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v"})
"""Live streams in these carry no time stamps; FFmpeg would invent 25 fps."""


def open_source(
    options: CaptureOptions,
    clock: Clock,
    *,
    interrupt: threading.Event | None = None,
    continuity: Continuity | None = None,
    on_discard: Callable[[DiscardReason], None] = lambda _reason: None,
    wanted_s: Callable[[], float] = lambda: float("-inf"),
    on_passed: Callable[[Times], None] = lambda _times: None,
) -> MediaSource:
    """Open a camera, a device or a file.

    Args:
        options: what and how.
        clock: gives arrival and wall-clock times.
        interrupt: once set, a paced wait ends at once and every read fails with ``STOPPED``. A read
            that FFmpeg is in cannot be broken off: it ends at its deadline.
        continuity: numbers and media time go on from here, and are written back.
        on_discard: told of each picture that is thrown away.
        wanted_s: tells the media time from which on a picture is wanted, seconds; earlier ones are
            decoded a little later, together, see ``streamer.burst``.
        on_passed: told of each picture that was not wanted when a later one was there already; it
            has its number, and is not given out.

    Raises:
        SourceError: with the typed reason; its text is free of credentials.
    """
    kind = reach.find(options.url, timeout_s=options.open_timeout_s)
    container, stream = _open(options, kind, clock)
    try:
        device = (
            reach.descriptor_of(reach.path_of(options.url)) if kind is reach.Kind.DEVICE else None
        )
    except OSError as error:  # pulled out while it was being opened
        container.close()
        raise SourceError(SourceReason.NOT_FOUND, f"{options.place}: {error.strerror}") from None
    return MediaSource(
        options,
        clock,
        opened=(kind, container, stream),
        device=device,
        interrupt=interrupt or threading.Event(),
        continuity=continuity or Continuity(),
        on_discard=on_discard,
        wanted_s=wanted_s,
        on_passed=on_passed,
    )


class MediaSource:
    """An opened camera or file; made by ``open_source``. It raises and never retries by itself.

    Attributes:
        info: what was found there.
        last_packet_ns: when data came last, on the monotonic clock, nanoseconds; a sign of life
            also while a stream waits for its first keyframe.
    """

    def __init__(
        self,
        options: CaptureOptions,
        clock: Clock,
        *,
        opened: tuple[reach.Kind, InputContainer, VideoStream],
        device: int | None,
        interrupt: threading.Event,
        continuity: Continuity,
        on_discard: Callable[[DiscardReason], None],
        wanted_s: Callable[[], float],
        on_passed: Callable[[Times], None],
    ) -> None:
        self._options = options
        self._clock = clock
        self._interrupt = interrupt
        self._continuity = continuity
        self._on_discard = on_discard
        self._wanted_s = wanted_s
        self._on_passed = on_passed
        kind, container, stream = opened
        self.info = _info(kind, container, stream, options)
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._device = device
        self._begin(container, stream)
        now_ns = clock.monotonic_ns()
        self.last_packet_ns = self._clean_ns = now_ns
        self._timeless = self.info.live and self.info.container in _TIMELESS
        self._live = LiveTimeline(after_s=continuity.media_s)
        self._rtcp = RtcpClock()
        origin_s = max(now_ns / NS, continuity.media_s)
        self._file = FileTimeline(origin_s)
        self._file_epoch_ns = clock.time_ns() - int(origin_s * NS)
        self._pacer = Pacer()

    def read(self) -> Frame:
        """Return the next clean frame that is wanted, or the last of those that came together.

        Raises:
            SourceError: when the stream failed, stalled or ended, or the interrupt was set; the
                source is then unusable.
        """
        while True:
            if self._interrupt.is_set():
                raise self._error(SourceReason.STOPPED, "asked to stop")
            while self._decoded:
                picture = self._decoded.popleft()
                if not self._is_clean(picture):
                    continue
                times = self._burst.times_of(picture.pts)
                if times is not None and self._decoded and times.media_s < self._wanted_s():
                    self._count(times)
                    self._on_passed(times)
                    continue
                return self._frame(picture, times or self._times(picture.time))
            self._take(self._next_packet())

    def close(self) -> None:
        """Release the decoder and the connection; may be called twice."""
        self._packets = iter(())
        self._decoded.clear()
        self._container.close()

    def _begin(self, container: InputContainer, stream: VideoStream) -> None:
        self._container = container
        self._packets = container.demux(stream)
        self._decoder = stream.codec_context
        self._tick_s = float(stream.time_base or 0)
        self._burst: Burst[Packet[VideoStream]] = Burst(self._wanted_s)
        self._decoded: deque[VideoFrame] = deque()
        self._synced = False
        self._key_pts: int | None = None  # of the first keyframe that was decoded
        self._broken = 0

    def _next_packet(self) -> Packet[VideoStream]:
        """Wait for data within the deadline; at the end of a looped file start again."""
        if self._device is not None:
            self._await_device(self._device)
        timeout_s = self._options.read_timeout_s
        started_ns = self._clock.monotonic_ns()
        try:
            packet = next(self._packets, None)
        except av.FFmpegError as error:
            elapsed_s = (self._clock.monotonic_ns() - started_ns) / NS
            raise _failed(self._options, error, elapsed_s, timeout_s) from None
        self.last_packet_ns = self._clock.monotonic_ns()
        if self.info.live and self.last_packet_ns - started_ns >= timeout_s * NS:
            # FFmpeg hands out what its parser held back, and would wait as long once more
            raise self._error(SourceReason.TIMEOUT, f"no answer within {timeout_s:g} s")
        if packet is None:
            self._start_again()
            return self._next_packet()
        if self.last_packet_ns - self._clean_ns > CLEAN_WITHIN_S * NS:
            raise self._error(
                SourceReason.DECODE_ERROR,
                f"data comes, but no clean picture in {CLEAN_WITHIN_S:g} s",
            )
        return _detached(packet) if self._device is not None and packet.size else packet

    def _start_again(self) -> None:
        if not self._synced:
            raise self._error(SourceReason.DECODE_ERROR, "it ended before its first clean picture")
        if self.info.live or not self._options.loop:
            raise self._error(SourceReason.ENDED, "the stream ended")
        self.close()
        kind = reach.find(self._options.url, timeout_s=self._options.open_timeout_s)
        container, stream = _open(self._options, kind, self._clock)
        self._begin(container, stream)
        self._file.loop()

    def _await_device(self, descriptor: int) -> None:
        """Wait for a picture: the driver itself would block without a deadline."""
        timeout_s = self._options.read_timeout_s
        if not reach.await_readable(descriptor, timeout_s=timeout_s, interrupt=self._interrupt):
            if self._interrupt.is_set():
                raise self._error(SourceReason.STOPPED, "asked to stop")
            raise self._error(SourceReason.TIMEOUT, f"no picture within {timeout_s:g} s")

    def _take(self, packet: Packet[VideoStream]) -> None:
        """Decode a packet, with those kept before it; or keep it, if its picture is not wanted."""
        pts = packet.pts
        paced = self.info.live or self._options.realtime
        # Where pictures come out in another order, which one is next is known too late.
        in_order = self._synced and not self._decoder.has_b_frames
        if paced and in_order and pts is not None and not self._burst.knows(pts):
            if self._burst.add(packet, pts, self._times(pts * self._tick_s)):
                self._decode_kept()
            return
        self._decode_kept()
        self._decode(packet)

    def _decode_kept(self) -> None:
        for packet in self._burst.take():
            self._decode(packet)

    def _decode(self, packet: Packet[VideoStream]) -> None:
        """Decode; a few broken packets are passed over, many in a row end the stream."""
        try:
            pictures = packet.decode()
        except av.FFmpegError as error:
            self._broken += 1
            self._on_discard(DiscardReason.DECODE_ERROR)
            if self._broken >= MAX_BROKEN:
                raise _failed(self._options, error, 0.0, self._options.read_timeout_s) from None
            return
        if packet.is_keyframe and not packet.is_corrupt and self._key_pts is None:
            self._key_pts = packet.pts
        if pictures:
            self._broken = 0
            self._decoded.extend(pictures)

    def _is_clean(self, picture: VideoFrame) -> bool:
        if picture.is_corrupt:
            self._on_discard(DiscardReason.CORRUPT)
            return False
        if not self._synced:
            if not (picture.key_frame or self._follows_key(picture)):
                self._on_discard(DiscardReason.BEFORE_KEYFRAME)
                return False
            self._synced = True
        self._clean_ns = self.last_packet_ns
        return True

    def _follows_key(self, picture: VideoFrame) -> bool:
        """Tell whether a keyframe was decoded that is not shown, as where a clip was cut."""
        pts, key_pts = picture.pts, self._key_pts
        return pts is not None and key_pts is not None and pts >= key_pts

    def _count(self, times: Times) -> None:
        self._continuity.seq += 1
        self._continuity.media_s = times.media_s

    def _frame(self, decoded: VideoFrame, times: Times) -> Frame:
        picture = Upright(decoded)
        try:
            luma_HW = picture.luma()
        except av.FFmpegError:
            raise self._error(
                SourceReason.CODEC_UNSUPPORTED,
                f"pictures of the format {decoded.format.name} cannot be read",
            ) from None
        self._count(times)
        return Frame(
            camera=self._options.camera,
            seq=self._continuity.seq,
            luma_HW=luma_HW,
            captured_ns=times.captured_ns,
            monotonic_ns=times.arrival_ns,
            media_s=times.media_s,
            clock=times.clock,
            picture=picture,
        )

    def _times(self, pts_s: float | None) -> Times:
        return self._live_times(pts_s) if self.info.live else self._file_times(pts_s)

    def _live_times(self, pts_s: float | None) -> Times:
        """Place what came from a camera just now."""
        if self._timeless:
            pts_s = None
        arrival_ns, wall_ns = self._clock.monotonic_ns(), self._clock.time_ns()
        media_s = self._live.place(pts_s, arrival_ns)
        start_us = self._container.start_time_realtime
        camera_ns = self._rtcp.captured_ns(start_us, pts_s, host_ns=wall_ns, jumps=self._live.jumps)
        if camera_ns is None:
            return Times(arrival_ns, media_s, wall_ns, "host")
        return Times(arrival_ns, media_s, camera_ns, "rtcp")

    def _file_times(self, pts_s: float | None) -> Times:
        """Wait until the next of a paced file is due, and place it."""
        media_s = self._file.place(pts_s)
        if self._options.realtime:
            wait_s = self._pacer.wait_s(media_s, self._clock.monotonic_ns())
            if wait_s > 0 and self._interrupt.wait(wait_s):
                raise self._error(SourceReason.STOPPED, "asked to stop")
        captured_ns = self._file_epoch_ns + int(media_s * NS)
        return Times(self._clock.monotonic_ns(), media_s, captured_ns, "pts")

    def _error(self, reason: SourceReason, words: str) -> SourceError:
        return SourceError(reason, f"{self._options.place}: {words}")


def _open(
    options: CaptureOptions, kind: reach.Kind, clock: Clock
) -> tuple[InputContainer, VideoStream]:
    started_ns = clock.monotonic_ns()
    try:
        container = av.open(
            reach.ffmpeg_address(options.url, kind),
            mode="r",
            format="v4l2" if kind is reach.Kind.DEVICE else None,
            options=reach.ffmpeg_options(options, kind),
            metadata_errors="replace",  # a title in any encoding must not stop a camera
            timeout=(options.open_timeout_s, options.read_timeout_s),
        )
    except av.FFmpegError as error:
        if kind is reach.Kind.DEVICE and error.errno == errno.EINVAL:
            reason, words = reach.unfit(reach.path_of(options.url))
            raise SourceError(reason, f"{options.place}: {words}") from None
        elapsed_s = (clock.monotonic_ns() - started_ns) / NS
        raise _failed(options, error, elapsed_s, options.open_timeout_s) from None
    try:
        return container, _video_stream(options, container)
    except SourceError:
        container.close()
        raise


def _detached(packet: Packet[VideoStream]) -> Packet[VideoStream]:
    """Copy a device's packet: its bytes are the driver's, and raw pictures are those bytes.

    Closing the device unmaps them, while the analysis or the live page may still look at a picture:
    reading it is SIGSEGV then (seen with the driver vivid). A copy also gives the driver its buffer
    back at once.
    """
    copy: Packet[VideoStream] = av.Packet(packet.size)  # type: ignore[assignment]
    copy.update(memoryview(packet))  # type: ignore[arg-type]
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts = packet.pts, packet.dts
    copy.is_keyframe, copy.is_corrupt = packet.is_keyframe, packet.is_corrupt
    return copy


def _video_stream(options: CaptureOptions, container: InputContainer) -> VideoStream:
    """Return the first video stream that is no cover art, ready to decode."""
    for stream in container.streams:
        if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
            break
    else:
        raise SourceError(SourceReason.NO_VIDEO, f"{options.place}: there is no video in it")
    decoder = stream.codec_context
    if decoder is None:
        raise SourceError(
            SourceReason.CODEC_UNSUPPORTED, f"{options.place}: FFmpeg has no decoder for its codec"
        )
    threads = options.decode_threads
    decoder.thread_count = threads
    # frame threads hold back a picture each, slice threads none (measured)
    in_order = ThreadType.SLICE if options.realtime else ThreadType.AUTO
    decoder.thread_type = ThreadType.NONE if threads == 1 else in_order
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _info(
    kind: reach.Kind, container: InputContainer, stream: VideoStream, options: CaptureOptions
) -> SourceInfo:
    endless = not container.duration or container.duration <= 0
    from_camera = reach.scheme_of(options.url).startswith("rtsp") or endless
    rate = stream.average_rate
    return SourceInfo(
        codec=stream.codec_context.name,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        declared_fps=float(rate) if rate else None,
        pixel_format=stream.codec_context.pix_fmt or "",
        container=container.format.name,
        live=kind is reach.Kind.DEVICE or (kind is reach.Kind.NETWORK and from_camera),
        regular_file=kind is reach.Kind.FILE,
        duration_s=None if endless else (container.duration or 0) / av.time_base,
    )


def _failed(
    options: CaptureOptions, error: av.FFmpegError, elapsed_s: float, deadline_s: float
) -> SourceError:
    """Say it in our words: FFmpeg's text carries the address with the password."""
    reason, words = fault_of(
        abs(error.errno or 0),
        scheme=reach.scheme_of(options.url),
        elapsed_s=elapsed_s,
        deadline_s=deadline_s,
    )
    return SourceError(reason, f"{options.place}: {words}")
