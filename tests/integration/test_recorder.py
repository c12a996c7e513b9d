"""`streamer record` in a process of its own, a real publisher before it, real databases behind."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from streamer.events import EmotionChanged, EmotionSample, FaceLost
from streamer.keys import generate
from tests.publish_fixtures import event, every_event, publisher, wait_until
from tests.relay_fixtures import RelayProcess, addresses, logged, relaying, until_heard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.publish import PublishOptions


@pytest.fixture
def options() -> PublishOptions:
    """Where the daemon is, each time it is started."""
    return addresses()


@pytest.fixture
def recording(tmp_path: Path, options: PublishOptions) -> Iterator[RelayProcess]:
    """A recorder that writes SQLite files to ``tmp_path / "out"``."""
    with relaying(
        tmp_path, "record", "--out", str(tmp_path / "out"), "--connect", options.bind
    ) as process:
        yield process


def asked(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask every database of a folder, oldest first; none is fine."""
    rows = []
    for path in sorted(folder.glob("events-*.sqlite")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'events'").fetchall():
                rows += database.execute(query).fetchall()
    return rows


def count(folder: Path, kind: str) -> int:
    """Return how many events of a type are in the databases."""
    return sum(n for (n,) in asked(folder, f"SELECT count(*) FROM events WHERE type = '{kind}'"))  # noqa: S608


def test_every_event_is_a_row_with_its_values(
    tmp_path: Path, options: PublishOptions, recording: RelayProcess
) -> None:
    """What is asked for often has a column, the rest is JSON, and SIGTERM loses nothing."""
    out = tmp_path / "out"
    with publisher(options) as (source, _):
        until_heard(source, lambda: count(out, "daemon.stopping") > 0)
        for value in every_event():
            source.emit(value)
        for _ in range(300):
            source.emit(event(EmotionSample, camera="yard"))
        assert source.drain(10)
        assert recording.stop() == 0, recording.log.read_text()
        epoch = source.epoch
    (path,) = out.iterdir()  # the log of SQLite was folded in: one file
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0

    columns = "sequence, missed, track, x1, y1, x2, y2, frame_seq, label, confidence, probabilities"
    (sample,) = asked(
        out,
        f"SELECT {columns} FROM events WHERE topic = 'emotion.sample/lobby/'",  # noqa: S608
    )
    box = (10.0, 20.5, 110.0, 140.5)
    assert sample[:-1] == (1, 0, 17, *box, 812, "happiness", 0.91)
    assert json.loads(sample[-1]) == {"neutral": 0.09, "happiness": 0.91}
    lost = asked(out, "SELECT duration_s, samples, bundle, x1 FROM events WHERE type = 'face.lost'")
    assert lost == [(12.5, 125, "fer@0123456789ab", None)]
    changed = asked(out, "SELECT previous, label FROM events WHERE type = 'emotion.changed'")
    assert changed == [("neutral", "happiness")]
    (offline,) = asked(out, "SELECT reason, rest FROM events WHERE type = 'camera.offline'")
    assert (offline[0], json.loads(offline[1])) == ("timeout", {"detail": "no frame"})
    yard = asked(out, "SELECT sequence FROM events WHERE camera = 'yard' ORDER BY rowid")
    assert yard == [(n,) for n in range(1, 301)]
    assert asked(out, "SELECT DISTINCT epoch FROM events") == [(epoch,)]
    assert asked(out, "PRAGMA integrity_check") == [("ok",)]
    assert asked(out, "PRAGMA journal_mode") == [("wal",)]
    assert logged(recording, "relay_stopped")["missed"] == 0


def test_it_survives_the_daemons_restart(
    tmp_path: Path, options: PublishOptions, recording: RelayProcess
) -> None:
    """Two runs of the daemon are two epochs in one database; the restart is logged."""
    out = tmp_path / "out"
    for run in (1, 2):
        with publisher(options) as (source, _):
            until_heard(source, lambda: len(epochs(out)) == run)  # noqa: B023
            source.emit(event(EmotionChanged))
            wait_until(lambda: count(out, "emotion.changed") == run)  # noqa: B023
            assert epochs(out)[-1] == (source.epoch,)

    assert recording.stop() == 0
    assert asked(out, "SELECT sequence FROM events WHERE type = 'emotion.changed'") == [(1,), (1,)]
    assert len(recording.logged("daemon_restarted")) == 1


def epochs(folder: Path) -> list[tuple[str]]:
    """Return the runs of the daemon that are recorded, in order."""
    return asked(folder, "SELECT epoch FROM events GROUP BY epoch ORDER BY min(rowid)")


def test_a_gap_is_recorded_counted_and_logged(
    tmp_path: Path, options: PublishOptions, recording: RelayProcess
) -> None:
    """Events that a stalled recorder missed are a number in the next row of their topic."""
    out = tmp_path / "out"
    with publisher(options) as (source, _):
        until_heard(source, lambda: count(out, "daemon.stopping") > 0)
        source.emit(event(EmotionSample))
        wait_until(lambda: count(out, "emotion.sample") == 1)
        recording.process.send_signal(signal.SIGSTOP)
        for _ in range(60):  # 60,000 events are beyond what both queues and the kernel hold
            for _ in range(1000):
                source.emit(event(EmotionSample))
            assert source.drain(10)
        recording.process.send_signal(signal.SIGCONT)
        missed = "SELECT coalesce(sum(missed), 0) FROM events WHERE type = 'emotion.sample'"
        until_heard(source, lambda: asked(out, missed)[0][0] > 0, EmotionSample)
        assert recording.stop() == 0

    ((rows, missing, last),) = asked(
        out,
        "SELECT count(*), sum(missed), max(sequence) FROM events WHERE type = 'emotion.sample'",
    )
    assert last > 60_000
    assert rows + missing == last  # nothing is missing that is not counted
    assert logged(recording, "events_missed")["topic"] == "emotion.sample/lobby/"
    assert logged(recording, "relay_stopped")["missed"] == missing


def test_a_kill_leaves_whole_batches(
    tmp_path: Path, options: PublishOptions, recording: RelayProcess
) -> None:
    """After SIGKILL in mid-stream the database is sound, has no hole, and is gone on with."""
    out = tmp_path / "out"
    with publisher(options) as (source, _):
        until_heard(source, lambda: count(out, "daemon.stopping") > 0)
        for _ in range(2000):
            source.emit(event(FaceLost))
        wait_until(lambda: count(out, "face.lost") >= 500)
        recording.process.kill()
        recording.process.wait(10)
        found = count(out, "face.lost")
        sequences = asked(out, "SELECT sequence FROM events WHERE type = 'face.lost'")
        assert sequences == [(n,) for n in range(1, found + 1)]
        assert asked(out, "PRAGMA integrity_check") == [("ok",)]
        stopped = count(out, "daemon.stopping")
        with relaying(tmp_path, "record", "-o", str(out), "--connect", options.bind) as second:
            until_heard(source, lambda: count(out, "daemon.stopping") > stopped)
            assert second.stop() == 0
    assert len(list(out.glob("*.sqlite"))) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "csv"), "expected one of sqlite, parquet"),
        (("--rotate-mb", "0"), "expected a size and an age above 0"),
        (("--rotate-mb", "inf"), "expected a size and an age above 0"),
        (("--rotate-hours", "nan"), "expected a size and an age above 0"),
        (("--topic", "a\udcff"), "is not UTF-8"),
        (("--connect", "localhost:5556"), "is no address"),
        (("--out", "/proc/nowhere"), "/proc/nowhere: cannot be made"),
        (("--server-key", "server.key"), "are needed together"),
    ],
)
def test_a_mistake_is_one_line_and_exit_78(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    """Options that cannot work end it at once, with the reason and without a traceback."""
    with relaying(tmp_path, "record", "--out", str(tmp_path), *arguments) as process:
        assert process.process.wait(20) == 78
    (line,) = process.log.read_text().splitlines()
    assert told in line


def test_keys_let_it_in_and_their_absence_is_told(tmp_path: Path) -> None:
    """With its key it records; without one it says that it is refused and goes on trying."""
    server, secret = generate(tmp_path / "server", "daemon")
    generate(tmp_path / "clients", "archive")
    options = replace(addresses(), server_secret_key=secret, authorized_keys=tmp_path / "clients")
    own = tmp_path / "clients" / "archive.key_secret"
    keys = ("--server-key", str(server), "--client-key", str(own))
    arguments = ("record", "-o", str(tmp_path / "out"), "--connect", options.bind)
    with publisher(options) as (source, _):
        with relaying(tmp_path, *arguments) as stranger:
            assert logged(stranger, "connection_refused")["address"] == options.bind
            assert stranger.stop() == 0
        with relaying(tmp_path, *arguments, *keys) as known:
            until_heard(source, lambda: count(tmp_path / "out", "daemon.stopping") > 0)
            assert known.stop() == 0


def test_a_foreign_database_is_left_alone(tmp_path: Path, options: PublishOptions) -> None:
    """A file that only has the name of a recording is neither written to nor replaced."""
    path = tmp_path / "events-20260131T120000.000000Z.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE events (mine TEXT)")
        database.commit()
    before = path.read_bytes()

    with relaying(tmp_path, "record", "-o", str(tmp_path), "--connect", options.bind) as process:
        assert process.process.wait(20) == 78

    assert "not a recording of this version" in process.log.read_text()
    assert path.read_bytes() == before
