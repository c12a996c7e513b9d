"""A second of fuzzing for each parser; `python -m tests.fuzz` goes on for longer."""

from __future__ import annotations

import shutil

import pytest

from tests.fuzz import fuzz
from tests.fuzz_targets import TARGETS

FOUND = {
    "key": b'metadata\ncurve\n    public-key \n    secret-key = "x"\n',  # no "=" in a line
    "http": b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\ntoken=\xbb",
    "stored": b'{"format": 1, "input": {"path": "\xc3\x8a\x84"}}',
}
"""What was found once, by target."""


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_any_bytes_give_a_value_or_the_declared_error(target: str) -> None:
    """Fifty inputs at least, honest ones with changes and noise."""
    if target == "video" and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg, which makes the clips")
    outcome = fuzz(target, seconds=0.5, seed=6)
    assert outcome.findings == []
    assert outcome.examples >= 50


@pytest.mark.parametrize("target", sorted(FOUND))
def test_what_was_found_once_is_refused(target: str) -> None:
    """It was another exception than the declared one, or an answer of 500."""
    _, opened = TARGETS[target]
    with opened() as check:
        check(FOUND[target])


def test_samples_that_do_not_decompress_are_refused() -> None:
    """Found once: zlib's own error left the loader."""
    originals, opened = TARGETS["parity"]
    (data,) = originals()
    with opened() as check:
        check(data[:200] + bytes(40) + data[240:])
