"""The annotated video: every picture with the faces' boxes and labels, the sound as it was.

Beside ``streamer.capture`` the only module of the analysis that touches PyAV, here to write.

Legend: T readings of one face.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal, cast, overload

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import ColorRange, Colorspace

from streamer.analyse.drawing import frame_face
from streamer.errors import EngineError, StreamerError
from streamer.events import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    from streamer.analyse.samples import Course
    from streamer.types import BGR, Frame

__all__ = ["AnnotatedVideo", "require_encoder"]

_ENCODER: Final = "libx264"
_QUALITY: Final = {"crf": "20", "preset": "veryfast"}
"""Visually near the source at a third of the time of the default preset (x264's documentation)."""
_TICKS: Final = 90_000  # a second; MPEG's own clock, and a multiple of all usual frame rates
_GAP_S: Final = 0.6  # between readings further apart than this a face was not there; see ``plot``
_HOLD_S: Final = 0.15  # a face's last reading is shown until about the next would have come
_ROUNDED_S: Final = 1e-3  # times of readings are rounded, those of pictures are not
_USUAL_FPS: Final = 25.0  # only a hint to the encoder's rate control; every picture has its time
_MP4_SOUND: Final = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
"""Sound that players expect in MP4; with any other the video becomes a Matroska file."""


def require_encoder() -> None:
    """Say at the start what a long run would find missing at its end.

    Raises:
        EngineError: if this FFmpeg has no H.264 encoder.
    """
    if _ENCODER not in av.codecs_available:
        raise EngineError(f"--video: this FFmpeg has no {_ENCODER}; install the wheel of av (PyAV)")


class AnnotatedVideo:
    """Draws and encodes the pictures as they pass; to be closed.

    Args:
        folder: where ``annotated.mp4`` (or ``.mkv``, see above) goes.
        source: the recording, for its sound.
        courses: the faces.
        fps: the recording's pictures a second, if known.

    Raises:
        StreamerError: if it cannot be written.
    """

    def __init__(
        self, folder: Path, source: Path, courses: Sequence[Course], fps: float | None
    ) -> None:
        self._courses = courses
        self._fps = fps or _USUAL_FPS
        self._source = _open(source, "r")
        self._sounds = [
            s for s in self._source.streams if isinstance(s, AudioStream) and s.codec_context
        ]
        self._origin_s = _start_s(self._source.streams.video[0])
        fits = all(s.codec_context.codec.canonical_name in _MP4_SOUND for s in self._sounds)
        self.path = folder / ("annotated.mp4" if fits else "annotated.mkv")
        self._output = _open(self.path, "w")
        self._video: VideoStream | None = None
        self._copies: dict[int, AudioStream] = {}
        self._packets = self._demux(self._sounds)
        self._waiting = next(self._packets, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            self._output.close()
        except av.FFmpegError as failure:
            raise _failed(self.path, failure) from None
        finally:
            self._output.close()
            self._source.close()

    def take(self, frame: Frame) -> None:
        """Draw into a picture and encode it.

        Raises:
            StreamerError: if the encoder or the disk refuses.
        """
        if frame.picture is None:
            return
        picture = frame.picture.bgr()
        for course in self._courses:
            _draw(picture, course, frame.media_s)
        height, width = picture.shape[:2]
        even = np.ascontiguousarray(picture[: height & ~1, : width & ~1])  # H.264 in 4:2:0
        try:
            video = self._video or self._begin(even.shape[1], even.shape[0])
            encoded = av.VideoFrame.from_ndarray(even, "bgr24").reformat(
                format="yuv420p",
                width=video.width,  # a stream may change its size; a file may not
                height=video.height,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            when_s = self._origin_s + frame.media_s
            encoded.pts = round(when_s * _TICKS)
            encoded.time_base = Fraction(1, _TICKS)
            self._write_sound(until_s=when_s)
            self._output.mux(video.encode(encoded))
        except av.FFmpegError as error:
            raise _failed(self.path, error) from None

    def _begin(self, width: int, height: int) -> VideoStream:
        """Add the streams, the pictures first: that is the order players expect."""
        rate = Fraction(self._fps).limit_denominator(1001)
        video = self._output.add_stream(_ENCODER, rate=rate, options=dict(_QUALITY))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.time_base = Fraction(1, _TICKS)
        video.codec_context.colorspace = Colorspace.ITU709
        video.codec_context.color_range = ColorRange.MPEG
        self._video = video
        for sound in self._sounds:
            self._copies[sound.index] = self._output.add_stream_from_template(sound)
        return video

    def _demux(self, sounds: Sequence[AudioStream]) -> Iterator[Packet[AudioStream]]:
        if sounds:
            for packet in self._source.demux(sounds):
                if packet.dts is not None:  # the empty one that ends the file has none
                    yield cast("Packet[AudioStream]", packet)

    def _write_sound(self, *, until_s: float) -> None:
        """Copy sound up to a time, so that pictures and sound lie beside one another."""
        while (packet := self._waiting) is not None:
            if (packet.dts or 0) * float(packet.time_base) > until_s:
                return
            packet.stream = self._copies[packet.stream.index]
            self._output.mux(packet)
            self._waiting = next(self._packets, None)

    def _finish(self) -> None:
        if self._video is not None:
            self._output.mux(self._video.encode())
            self._write_sound(until_s=float("inf"))


@overload
def _open(path: Path, mode: Literal["r"]) -> InputContainer: ...
@overload
def _open(path: Path, mode: Literal["w"]) -> OutputContainer: ...
def _open(path: Path, mode: Literal["r", "w"]) -> InputContainer | OutputContainer:
    # an MP4 with its index in front plays while it is still loading
    options = {"movflags": "+faststart"} if mode == "w" and path.suffix == ".mp4" else {}
    try:
        return av.open(str(path), mode, options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise _failed(path, error) from None


def _failed(path: Path, error: av.FFmpegError) -> StreamerError:
    return StreamerError(f"{path.name}: {error.strerror}; is there room, and may it be written?")


def _start_s(stream: VideoStream) -> float:
    """Return when the pictures begin on the file's own clock, which the sound is on as well."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _draw(picture: BGR, course: Course, when_s: float) -> None:
    """Draw a face where it was at a time, between the readings before and after it."""
    times_s = course.time_s_T
    row = int(np.searchsorted(times_s, when_s + _ROUNDED_S, side="right")) - 1
    if row < 0:
        return
    last = row + 1 >= len(times_s) or times_s[row + 1] - times_s[row] > _GAP_S
    if last and when_s - times_s[row] > _HOLD_S:
        return
    box = course.boxes_T4[row]
    if not last:
        share = (when_s - times_s[row]) / (times_s[row + 1] - times_s[row])
        box = box + max(0.0, share) * (course.boxes_T4[row + 1] - box)
    label = course.label_at(when_s)
    frame_face(
        picture,
        box.tolist(),
        label=label,
        text=str(course.face) if label == UNKNOWN else f"{course.face} · {label}",
        shares=course.shares_at(row),
    )
