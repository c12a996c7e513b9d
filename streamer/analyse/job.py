"""One recording from its first picture to its finished folder."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import CollectorRegistry

from streamer.analyse import plot, state
from streamer.analyse.order import Output
from streamer.analyse.samples import Samples
from streamer.analyse.summary import write_dwells, write_summary
from streamer.analyse.thumbnails import ThumbnailSheet
from streamer.analyse.video import AnnotatedVideo
from streamer.capture import open_source
from streamer.envelope import Numbering
from streamer.errors import SourceError, SourceReason, StreamerError
from streamer.events import CameraOffline, CameraOnline, Event
from streamer.metrics import Metrics
from streamer.models import make_pipeline
from streamer.pace import Pace
from streamer.source import CaptureOptions

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from streamer.analyse.inputs import Recording
    from streamer.analyse.order import Order
    from streamer.analyse.progress import Bar
    from streamer.analyse.samples import Course
    from streamer.models import Models
    from streamer.pipeline import Pipeline
    from streamer.source import SourceInfo
    from streamer.types import Frame

__all__ = ["Finished", "Job", "duration_of", "passes"]

_EPOCH_DIGITS: Final = 32  # as many as the daemon's epochs have


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What became of a recording.

    Attributes:
        recording: it.
        state: what was done.
        courses: its faces.
    """

    recording: Recording
    state: state.State
    courses: tuple[Course, ...]


class _FileClock:
    """A file has no now: media time starts at 0, and the wall clock where the order says."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns

    def monotonic_ns(self) -> int:
        return 0

    def time_ns(self) -> int:
        return self._start_ns


class _Recorder:
    """The pipeline's sink: writes each event as the daemon would send it at its picture's time."""

    def __init__(self, file: BinaryIO, epoch: str, samples: Samples) -> None:
        self._file = file
        self._numbering = Numbering(epoch)
        self._samples = samples
        self._time_ns = 0
        self._media_s = 0.0

    def at(self, frame: Frame) -> None:
        """Say which picture the next events come from."""
        self._time_ns = frame.captured_ns
        self._media_s = frame.media_s

    def emit(self, *events: Event) -> None:
        """Write events, and pass on what changes a face's label."""
        for event in events:
            numbered = self._numbering.number(event)
            self._file.write(numbered.encode(time_ns=self._time_ns, monotonic_ns=0) + b"\n")
            self._samples.changed(event, self._media_s)


@dataclass(slots=True)
class _Counts:
    frames: int = 0
    analysed: int = 0
    duration_s: float = 0.0


class Job:
    """The analysis of one recording; runs in one thread.

    Args:
        recording: what.
        order: how, and what to write.
        settings: what the results depend on; see ``order.settings_of``.
        outputs: what to write beside the data.
        models: the networks, shared by all jobs.
        decode_threads: how many threads may decode ahead of the analysis.
        stop: once set, the job ends at the next picture.
        bar: told how far it is.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        order: Order,
        settings: dict[str, Any],
        outputs: frozenset[Output],
        models: Models,
        decode_threads: int,
        stop: threading.Event,
        bar: Bar,
    ) -> None:
        self._recording = recording
        self._order = order
        self._settings = settings
        self._outputs = outputs
        self._models = models
        self._decode_threads = decode_threads
        self._stop = stop
        self._bar = bar
        self._info: SourceInfo | None = None
        self._classes = tuple(models.bundle.manifest.classes)

    def run(self) -> Finished:
        """Do all of it; the folder appears when everything is in it.

        Raises:
            SourceError: if the recording cannot be read, or with ``STOPPED``.
            StreamerError: if something else fails.
        """
        path, name = self._recording.path, self._recording.name
        try:
            return self._run(path, name)
        except OSError as error:
            raise StreamerError(f"{error.filename or path}: {error.strerror}") from None
        finally:
            self._bar.end()

    def _run(self, path: Path, name: str) -> Finished:
        self._check_stop()
        if not path.is_file():
            raise SourceError(SourceReason.NOT_FOUND, f"{path}: there is no such file")
        identity = state.recorded(path)
        with state.folder_in_work(self._order.out / name) as folder:
            samples, counts = self._analyse(folder, identity)
            courses = samples.courses()
            self._write(folder, samples, courses)
            self._show(folder, courses, counts)
            done = self._state(identity, counts, faces=len(courses))
            state.write(folder, done)
            self._check_stop()
        return Finished(recording=self._recording, state=done, courses=tuple(courses))

    def _analyse(self, folder: Path, identity: state.Recorded) -> tuple[Samples, _Counts]:
        """Run the pipeline over the due pictures, as the compute loop does."""
        samples = Samples(self._classes)
        counts = _Counts()
        epoch = hashlib.sha256(identity.sha256.encode() + msgspec.json.encode(self._settings))
        with (folder / "events.jsonl").open("wb") as file:
            recorder = _Recorder(file, epoch.hexdigest()[:_EPOCH_DIGITS], samples)
            pipeline = self._pipeline(recorder, samples)
            pace = Pace(self._order.config.analysis.fps)
            for frame in self._frames():
                counts.frames, counts.duration_s = frame.seq, frame.media_s
                recorder.at(frame)
                if counts.frames == 1:
                    self._begin(recorder, frame)
                if pace.due(frame.media_s):
                    pace.take(frame.media_s)
                    pipeline.process([frame])
                    counts.analysed += 1
                    self._bar.reach(frame.media_s)
            pipeline.lose(self._recording.name)
            reason = SourceReason.ENDED.value
            recorder.emit(Event(data=CameraOffline(camera=self._recording.name, reason=reason)))
        return samples, counts

    def _pipeline(self, recorder: _Recorder, samples: Samples) -> Pipeline:
        return make_pipeline(
            self._order.config,
            self._models,
            sink=recorder,
            metrics=Metrics(CollectorRegistry(), process=False),
            viewers=(samples,),
        )

    def _begin(self, recorder: _Recorder, frame: Frame) -> None:
        duration_s = self._info.duration_s if self._info else None
        self._bar.begin(duration_s and passes(self._outputs) * duration_s)
        online = CameraOnline(
            camera=frame.camera, reason="connected", width=frame.width, height=frame.height
        )
        recorder.emit(Event(data=online))

    def _frames(self) -> Iterator[Frame]:
        """Read the recording to its end."""
        options = CaptureOptions(
            camera=self._recording.name,
            url=str(self._recording.path),
            realtime=False,
            decode_threads=self._decode_threads,
        )
        source = open_source(options, _FileClock(self._order.start_ns), interrupt=self._stop)
        self._info = source.info
        try:
            while True:
                yield source.read()
        except SourceError as error:
            if error.reason is not SourceReason.ENDED:
                raise
        finally:
            source.close()

    def _write(self, folder: Path, samples: Samples, courses: list[Course]) -> None:
        """Write the tables and the plots."""
        name = self._recording.name
        samples.write_csv(folder / "samples.csv")
        if Output.PARQUET in self._outputs:
            samples.write_parquet(folder / "samples.parquet")
        write_summary(folder / "summary.csv", name, courses, self._classes)
        write_dwells(folder / "dwells.csv", name, courses)
        if Output.PLOTS in self._outputs:
            for course in courses:
                self._check_stop()
                stem = folder / f"timeline-face-{course.face:03d}"
                title = f"{self._recording.path.name} — face {course.face}"
                plot.plot(
                    course,
                    self._classes,
                    title,
                    (stem.with_suffix(".png"), stem.with_suffix(".svg")),
                )

    def _show(self, folder: Path, courses: list[Course], counts: _Counts) -> None:
        """Read the recording once more for what was asked to show pictures."""
        if passes(self._outputs) == 1:
            return
        sheet = ThumbnailSheet(courses) if Output.THUMBNAILS in self._outputs else None
        fps = self._info.declared_fps if self._info else None
        with ExitStack() as stack:
            video = None
            if Output.VIDEO in self._outputs:
                source = self._recording.path
                video = stack.enter_context(AnnotatedVideo(folder, source, courses, fps))
            for frame in self._frames():
                for taker in (sheet, video):
                    if taker is not None:
                        taker.take(frame)
                self._bar.reach(counts.duration_s + frame.media_s)
        if sheet is not None:
            sheet.write(folder / "thumbnails.jpg")

    def _state(self, identity: state.Recorded, counts: _Counts, *, faces: int) -> state.State:
        return state.State(
            input=identity,
            settings=self._settings,
            outputs=tuple(sorted(self._outputs)),
            duration_s=round(counts.duration_s, 4),
            frames=counts.frames,
            analysed=counts.analysed,
            faces=faces,
        )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise SourceError(SourceReason.STOPPED, "asked to stop")


def passes(outputs: frozenset[Output]) -> int:
    """Return how often a recording is read: pictures are drawn when its faces are known."""
    return 2 if outputs & {Output.THUMBNAILS, Output.VIDEO} else 1


def duration_of(recording: Recording) -> float | None:
    """Return how long a recording says it is, seconds; None if it does not say or is none."""
    options = CaptureOptions(camera=recording.name, url=str(recording.path), realtime=False)
    try:
        source = open_source(options, _FileClock(0))
    except SourceError:
        return None  # told when its turn comes
    source.close()
    return source.info.duration_s
