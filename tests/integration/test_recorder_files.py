"""The recorder's files: rotation, Parquet, databases that are locked or full."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from streamer.archive import recorder as recording
from streamer.archive.recorder import Recorder, parquet_format, sqlite_format
from streamer.archive.rotation import Rotation, files
from streamer.archive.rows import COLUMNS, row_of
from streamer.archive.sqlite import SqliteFile
from streamer.client import Gap, Received
from streamer.errors import ConfigError, StreamerError
from streamer.events import EmotionSample, EventData
from tests.publish_fixtures import event, every_event, publisher
from tests.relay_fixtures import addresses, relaying, until_heard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.archive.recorder import Format
    from streamer.archive.rows import Row

_NOON_S = 1_769_860_800  # 2026-01-31T12:00:00Z


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = float(_NOON_S)

    def time_ns(self) -> int:
        """Return the time that was set."""
        return int(self.now_s * 1e9)

    def monotonic_ns(self) -> int:
        """Return the same: it only times repetitions of log lines."""
        return self.time_ns()


_numbers = itertools.count(1)


def received(data: EventData | dict[str, Any] | None = None, **changes: Any) -> Received:
    """Return an event as it comes from a subscriber, each with an id of its own."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "topic": "emotion.sample/lobby/",
        "id": f"e-{number}",
        "source": "/cameras/lobby",
        "type": "emotion.sample",
        "subject": "tracks/17",
        "time": "2026-01-31T12:00:00.123456Z",
        "sequence": number,
        "epoch": "e",
        "data": event(EmotionSample).data if data is None else data,
        "gap": None,
        "raw": b"{}",
    }
    return Received(**(values | changes))


def make(folder: Path, clock: Clock, *, form: Format | None = None, **limits: Any) -> Recorder:
    """Return a recorder of SQLite files that rotates late unless told otherwise."""
    return Recorder(
        folder=folder,
        form=form or sqlite_format(),
        limits=Rotation(**({"size_bytes": 1 << 40, "age_s": 1e9} | limits)),
        clock=clock,
    )


def fill(target: Recorder, count: int) -> None:
    """Give it events as the relay does."""
    for _ in range(count):
        target.take(received())
        target.tick(connected=True)


def rows(path: Path) -> int:
    """Return how many events a database has."""
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM events").fetchone()[0])


def test_a_new_file_begins_with_age(tmp_path: Path) -> None:
    """An hour is an hour of the clock, also when nothing happens; names say when each began."""
    clock = Clock()
    target = make(tmp_path, clock, age_s=3600.0)
    fill(target, 500)  # a batch
    clock.now_s += 3599
    target.tick(connected=True)
    assert len(files(tmp_path, ".sqlite")) == 1
    clock.now_s += 1
    target.tick(connected=True)
    clock.now_s += 3600
    target.tick(connected=True)  # the new one has no rows yet: it stays
    assert target.close(1.0) == 0

    assert [path.name for path in files(tmp_path, ".sqlite")] == [
        "events-20260131T120000.000000Z.sqlite",
        "events-20260131T130000.000000Z.sqlite",
    ]
    assert [rows(path) for path in files(tmp_path, ".sqlite")] == [500, 0]


def test_a_new_file_begins_with_size_and_old_ones_are_deleted(tmp_path: Path) -> None:
    """The size is kept to within a batch; `keep` counts finished files, others are not touched."""
    (tmp_path / "events-notes.sqlite").write_text("mine")
    clock = Clock()
    target = make(tmp_path, clock, size_bytes=300_000, keep=2)
    for _ in range(10):
        clock.now_s += 1
        fill(target, 500)
    assert target.close(1.0) == 0

    found = files(tmp_path, ".sqlite")
    assert len(found) == 3
    for path in found[:-1]:
        assert 300_000 <= path.stat().st_size < 300_000 + 500 * 600  # a row has under 600 bytes
        assert rows(path) % 500 == 0
    assert (tmp_path / "events-notes.sqlite").read_text() == "mine"
    assert not list(tmp_path.glob("*-wal"))


@pytest.mark.parametrize("form", ["sqlite", "parquet"])
def test_a_clock_that_goes_back_costs_no_recording(tmp_path: Path, form: str) -> None:
    """What is written stays, the oldest go, and the next file is begun when this one is old."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    clock = Clock()
    kind = replace(sqlite_format() if form == "sqlite" else parquet_format(), batch_rows=50)
    target = make(tmp_path, clock, form=kind, age_s=3600.0, keep=1)
    for hours in (1, 2, -24, -23, -22):
        fill(target, kind.batch_rows)
        clock.now_s = _NOON_S + hours * 3600
        target.tick(connected=True)
    fill(target, kind.batch_rows)
    assert target.close(1.0) == 0

    suffix = kind.suffix
    assert [path.name for path in files(tmp_path, suffix)] == [
        # Of the five hours that were recorded the last two; the clock had come to 14:00 before.
        f"events-20260131T140000.000001Z{suffix}",
        f"events-20260131T140000.000002Z{suffix}",
    ]


def test_a_file_that_only_looks_like_a_recording_is_left_alone(tmp_path: Path) -> None:
    """A date that there is not, and the last one there is, which no name could follow."""
    odd = {tmp_path / f"events-{day}T999999.000000Z.sqlite" for day in ("20269999", "99991231")}
    for path in odd:
        path.write_text("mine")
    target = make(tmp_path, Clock(), keep=1)
    fill(target, 500)
    assert target.close(1.0) == 0

    assert {path.read_text() for path in odd} == {"mine"}
    assert [rows(path) for path in files(tmp_path, ".sqlite")] == [500]


def test_a_restart_goes_on_in_the_same_file_until_it_is_old(tmp_path: Path) -> None:
    """A recorder that is restarted does not scatter a day over many files."""
    clock = Clock()
    for hours in (0, 23, 24):
        clock.now_s = _NOON_S + hours * 3600
        target = make(tmp_path, clock, age_s=86_400.0)
        fill(target, 10)
        assert target.close(1.0) == 0

    assert [rows(path) for path in files(tmp_path, ".sqlite")] == [20, 10]


def test_two_recorders_write_each_event_once(tmp_path: Path) -> None:
    """The same event twice, as from two recorders on one folder, is one row."""
    clock = Clock()
    first, second = make(tmp_path, clock), make(tmp_path, clock)
    same = received()
    for target in (first, second):
        target.take(same)
        assert target.close(1.0) == 0

    assert [rows(path) for path in files(tmp_path, ".sqlite")] == [1]


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    """Rows wait while another process holds the lock, and are written when it lets go."""
    target = make(tmp_path, Clock())
    (path,) = files(tmp_path, ".sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        fill(target, 500)
        assert rows(path) == 0
        other.execute("ROLLBACK")
    assert target.close(1.0) == 0

    assert rows(path) == 500


def test_a_locked_database_is_asked_again_after_a_while_and_not_at_each_event(
    tmp_path: Path,
) -> None:
    """An attempt blocks for as long as the lock is waited for: events are taken in between."""
    kind = sqlite_format()
    attempts = []

    class Counted(SqliteFile):
        def write(self, rows: Sequence[Row]) -> bool:
            attempts.append(len(rows))
            return super().write(rows)

    target = make(tmp_path, Clock(), form=replace(kind, open=Counted, batch_s=1e6))
    (path,) = files(tmp_path, ".sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        fill(target, 600)
        assert attempts == [500]
        other.execute("ROLLBACK")
    target._since_s -= 1e6  # the while is over
    fill(target, 1 + 500)
    assert attempts == [500, 601, 500]
    assert target.close(1.0) == 0
    assert rows(path) == 1101


def test_a_database_that_stays_locked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is bounded, and what could not be written is counted."""
    monkeypatch.setattr(recording, "_MOST_WAITING", 500)
    target = make(tmp_path, Clock())
    (path,) = files(tmp_path, ".sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(501):
            target.take(received())
        with pytest.raises(StreamerError, match="locked by another process while 501 events"):
            target.tick(connected=True)
        assert target.close(0.1) == 501


def test_a_full_disk_is_an_error_and_counted(tmp_path: Path) -> None:
    """SQLite's own "disk is full" ends the recorder with one line; earlier batches stay."""
    target = make(tmp_path, Clock())
    fill(target, 500)
    target._file._database.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]
    for _ in range(5000):
        target.take(received())
    with pytest.raises(StreamerError, match="cannot be written: database or disk is full"):
        target.tick(connected=True)
    assert target.close(0.1) == 5000

    (path,) = files(tmp_path, ".sqlite")
    assert rows(path) == 500


def test_limits_that_make_no_sense_are_refused() -> None:
    """A size, an age and a number of files are positive."""
    odd = ({"size_bytes": math.inf}, {"size_bytes": math.nan}, {"age_s": math.nan})
    for limits in ({"size_bytes": 0}, {"age_s": 0.0}, {"keep": -1}, *odd):
        with pytest.raises(ConfigError, match="above 0"):
            Rotation(**({"size_bytes": 1, "age_s": 1.0} | limits))


def test_nothing_of_an_unknown_event_is_lost() -> None:
    """Fields of newer publishers, and values of other types than the column's, are kept as JSON."""
    data = {"camera": "lobby", "track": "seventeen", "box": [1, 2], "mood": {"blue": 1}}
    gap = Gap(topic="t/", missing=7, epoch_changed=False)

    row = dict(zip(COLUMNS, row_of(received(data, type="x.new", gap=gap)), strict=True))

    assert (row["type"], row["camera"], row["missed"]) == ("x.new", "lobby", 7)
    assert (row["track"], row["x1"]) == (None, None)
    assert json.loads(str(row["rest"])) == {
        "track": "seventeen",
        "box": [1, 2],
        "mood": {"blue": 1},
    }


def test_numbers_beyond_a_column_do_not_break_a_batch(tmp_path: Path) -> None:
    """A garbage speaker's sequence of a hundred digits is no reason to lose the rows around it."""
    target = make(tmp_path, Clock())
    target.take(received())
    target.take(received({"track": 10**100, "latency_ms": 10**100}, sequence=10**100))
    target.take(received())
    assert target.close(1.0) == 0

    (path,) = files(tmp_path, ".sqlite")
    assert rows(path) == 3


def test_parquet_has_the_same_columns_and_values(tmp_path: Path) -> None:
    """A file is complete after SIGTERM: every event, readable by another reader of Parquet."""
    parquet = pytest.importorskip("pyarrow.parquet")
    options, out = addresses(), tmp_path / "out"
    arguments = ("record", "-o", str(out), "--format", "parquet", "--connect", options.bind)
    with (
        publisher(options) as (source, _),
        relaying(tmp_path, *arguments) as process,
    ):
        until_heard(source, lambda: bool(process.logged("daemon_found")))
        for value in every_event():
            source.emit(value)
        for _ in range(300):
            source.emit(event(EmotionSample, camera="yard"))
        assert source.drain(10)
        assert process.stop() == 0, process.log.read_text()

    (path,) = out.iterdir()
    table = parquet.read_table(path).to_pylist()
    assert list(table[0]) == list(COLUMNS)
    (sample,) = [row for row in table if row["topic"] == "emotion.sample/lobby/"]
    assert (sample["track"], sample["x1"], sample["y2"]) == (17, 10.0, 140.5)
    assert (sample["label"], sample["confidence"], sample["clock"]) == ("happiness", 0.91, "host")
    assert json.loads(sample["probabilities"]) == {"neutral": 0.09, "happiness": 0.91}
    yard = [row["sequence"] for row in table if row["camera"] == "yard"]
    assert yard == list(range(1, 301))


def test_parquet_rotates_and_never_shows_half_a_file(tmp_path: Path) -> None:
    """A file gets its name when it is complete; one that a crash left is named and kept."""
    parquet = pytest.importorskip("pyarrow.parquet")
    clock = Clock()
    left = tmp_path / "events-20260131T110000.000000Z.parquet.part"
    left.write_bytes(b"PAR1")
    target = make(tmp_path, clock, form=parquet_format(), age_s=60.0, keep=1)
    for _ in range(3):
        fill(target, 20_000)
        clock.now_s += 60
        target.tick(connected=True)
    fill(target, 7)
    assert [path.name for path in files(tmp_path, ".parquet")] == [
        "events-20260131T120200.000000Z.parquet"
    ]
    assert target.close(1.0) == 0

    counts = [parquet.read_metadata(path).num_rows for path in files(tmp_path, ".parquet")]
    assert counts == [20_000, 7]
    assert left.read_bytes() == b"PAR1"
    assert len(list(tmp_path.iterdir())) == 3
