"""Freed memory goes back to the system, as it does not by itself; a process of its own measures."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than GNU's"
)

PROGRAM = """
import ctypes, json, os, sys, threading
sys.path.insert(0, sys.argv[1])
from streamer import memory
from streamer.supervisor import block_signals, supervise
from streamer.systemd import Notifier
from streamer.clock import SystemClock

def resident_mb():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

def session(kept):
    # as cameras that come and go: much is freed, and the little that stays lies above it
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(60_000) for _ in range(700)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    kept += blocks[::40]
    for at, block in enumerate(blocks):
        if at % 40:
            libc.free(block)

class Daemon:
    rounds = 0
    def start(self):
        self.kept, self.begin_mb = [], resident_mb()
        workers = [threading.Thread(target=session, args=(self.kept,)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.freed_mb = resident_mb()
    def stop(self, reason, deadline_s):
        print(json.dumps([self.begin_mb, self.freed_mb, resident_mb()]))
        return ()
    def stuck(self):
        self.rounds += 1
        return ()
    def status(self):
        return ""

block_signals()
memory.share_arenas()
every_s = float(sys.argv[2])
supervisor = sys.modules["streamer.supervisor"]
supervisor.Trim = lambda: memory.Trim(every_s)
daemon = Daemon()
sys.exit(supervise(daemon, notifier=Notifier(SystemClock()), watchdog_s=None,
                   until=lambda: daemon.rounds > 3))
"""


def supervised(every_s: float) -> tuple[float, float]:
    """Return what is resident above the start once all was freed, and after some rounds, MB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT), str(every_s)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    begin_mb, freed_mb, end_mb = json.loads(done.stdout.splitlines()[-1])
    return freed_mb - begin_mb, end_mb - begin_mb


def test_a_supervised_process_does_not_keep_what_it_freed() -> None:
    """Of 120 MB that three threads used and freed but for 3 MB, the system has most back."""
    freed_mb, end_mb = supervised(0.0)
    assert freed_mb > 60, "malloc gave it back by itself: the test shows nothing"
    assert end_mb < 30


def test_not_more_often_than_told() -> None:
    """It stops other threads for a moment, so it has its time."""
    freed_mb, end_mb = supervised(3600.0)
    assert end_mb > 0.9 * freed_mb


def test_what_is_loaded_is_hidden_from_the_collector() -> None:
    """In a process of its own: a collection after it visits next to nothing."""
    program = (
        "import gc, streamer.station; from streamer.memory import settle; "
        "settle(); print(len(gc.get_objects()), gc.get_freeze_count())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    visited, hidden = map(int, said)
    assert hidden > 50_000
    assert visited < hidden / 100


NETWORK = """
import ctypes, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from streamer import bundle
from streamer.session import Session

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena blocks fast maps mapped used_most free_fast used free top".split()]

def used_mb():
    info = ctypes.CDLL(None).mallinfo2
    info.restype = Info
    found = info()
    return (found.used + found.mapped) / 2**20

network = Session((bundle.path_of("") / "features.onnx").read_bytes(), threads=1, label="features")

def run(faces):
    network.run({"faces": np.zeros((faces, 1, 48, 48), np.float32)})

run(1)
before_mb = used_mb()
with ThreadPoolExecutor(2) as hands:
    list(hands.map(run, [1, 2, 4, 8, 16, 16, 16, 16]))
print(used_mb() - before_mb)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="a C library without mallinfo2"
)
def test_a_network_keeps_nothing_of_its_largest_batch() -> None:
    """Faces come in crowds now and then; the memory for them is free again after each call."""
    done = subprocess.run(
        [sys.executable, "-c", NETWORK, str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert float(done.stdout) < 2.0


FAULTS = """
import ctypes, resource, sys
sys.path.insert(0, sys.argv[1])
from streamer import memory

if sys.argv[2] == "kept":
    memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def call():
    # as the activations of a network: blocks of megabytes, all gone at the end
    blocks = [libc.malloc(20 * 2**20) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 20 * 2**20)
        libc.free(block)

call()
call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_a_call_freed_serves_the_next_one() -> None:
    """Its pages stay mapped; without it, the system maps and clears all of them again."""

    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, str(ROOT), how],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return int(done.stdout)

    assert faults("kept") < faults("as malloc does") / 5
