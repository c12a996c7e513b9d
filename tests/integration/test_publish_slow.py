"""A subscriber that stalls harms itself alone, and learns what it missed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from streamer.client import Subscriber
from streamer.events import DaemonStopping, EmotionSample
from streamer.publish import PublishOptions
from tests.publish_fixtures import event, joined, publisher

ROOT = Path(__file__).resolve().parents[2]
EVENTS = 60_000  # times 700 bytes: more than the kernel's socket buffers and both queues take
# A reader gives room back a hundred messages at a time (half its limit of 200), and a sender looks
# for room given back once in a millisecond: of the limit, half or less can be counted on at once.
BURST = 20

# says "ready" when it is subscribed, reads until the end is announced, then says what it missed
SLEEPER = """
import json, sys
from streamer.client import Subscriber
received = missed = 0
with Subscriber(connect=sys.argv[1]) as subscriber:
    subscriber.wait_connected(20)
    subscriber.receive(60)
    print("ready", flush=True)  # once, however many probes were under way
    while True:
        event = subscriber.receive(60)
        if event.type == "daemon.stopping":
            if received:
                break
        else:
            received += 1
            missed += event.gap.missing if event.gap else 0
            last = event.sequence
print(json.dumps({"received": received, "missed": missed, "last": last}))
"""


def read_line(stream: IO[str] | None) -> str:
    """Read a line that the other process promised."""
    assert stream is not None
    return stream.readline().strip()


def test_a_stalled_subscriber_loses_alone_and_sees_it() -> None:
    """One process is frozen while 60,000 events pass: the other gets all, it learns its gap."""
    options = PublishOptions(
        bind="tcp://127.0.0.1:0", snapshot="tcp://127.0.0.1:0", high_water_mark=200
    )
    with (
        publisher(options) as (source, recorder),
        Subscriber(connect=source.bind) as healthy,
        subprocess.Popen(
            [sys.executable, "-c", SLEEPER, source.bind], stdout=subprocess.PIPE, text=True
        ) as sleeper,
    ):
        try:
            joined(source, healthy)
            os.set_blocking(sleeper.stdout.fileno(), False)  # type: ignore[union-attr]
            ready = ""
            for _ in range(200):
                source.emit(event(DaemonStopping))
                time.sleep(0.05)
                ready = read_line(sleeper.stdout)
                if ready:
                    break
            assert ready == "ready"
            os.set_blocking(sleeper.stdout.fileno(), True)  # type: ignore[union-attr]
            while healthy.receive(0.2) is not None:
                pass  # the probes
            os.kill(sleeper.pid, signal.SIGSTOP)

            # were the publisher to wait for the frozen one, it would wait until the test's timeout
            for sequence in range(1, EVENTS + 1):
                source.emit(event(EmotionSample))
                if sequence % BURST == 0:  # the healthy one keeps up
                    for expected in range(sequence - BURST + 1, sequence + 1):
                        received = healthy.receive(10)
                        assert received is not None
                        assert received.sequence == expected
            assert healthy.missed == 0
            assert recorder.sent["emotion.sample"] == EVENTS
            assert not recorder.lost

            os.kill(sleeper.pid, signal.SIGCONT)
            time.sleep(1.0)  # it empties its queues; only then there is room for the last words
            for _ in range(50):
                source.emit(event(EmotionSample))
                source.emit(event(DaemonStopping))
                time.sleep(0.02)
            told = json.loads(read_line(sleeper.stdout))
        finally:
            sleeper.kill()

    assert told["missed"] > 0
    assert told["received"] + told["missed"] == told["last"]
    assert told["last"] > EVENTS


def test_visitors_of_an_idle_publisher_leave_nothing(tmp_path: Path) -> None:
    """Where no event is sent, a dozen floods of topics that came and went are not kept."""
    visit = (
        "import sys; from random import Random; from tests.unrest import flood_subscriptions\n"
        "flood_subscriptions(sys.argv[1], Random(1), 10_000)"
    )
    config = tmp_path / "publish.py"
    config.write_text(
        "import re, sys, time\n"
        "from pathlib import Path\n"
        "from tests.publish_fixtures import publisher\n"
        "with publisher() as (source, _):\n"
        "    print(source.bind, flush=True)\n"
        "    for _ in sys.stdin:\n"
        "        status = Path('/proc/self/status').read_text()\n"
        "        print(re.search(r'RssAnon:\\s+(\\d+)', status)[1], flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, config],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as idle:
        assert idle.stdin is not None
        assert idle.stdout is not None
        address = idle.stdout.readline().strip()
        sizes_kb = []
        for _ in range(3):
            visitors = [
                subprocess.Popen([sys.executable, "-c", visit, address], env=environment)
                for _ in range(2)
            ]
            assert [visitor.wait(60) for visitor in visitors] == [0, 0]
            time.sleep(1.0)
            idle.stdin.write("\n")
            idle.stdin.flush()
            sizes_kb.append(int(idle.stdout.readline()))
        idle.stdin.close()
    assert sizes_kb[-1] - sizes_kb[0] < 8_000, sizes_kb  # without a look it kept 22,000
