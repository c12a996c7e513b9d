"""A second of fuzzing for each parser; `python -m tests.fuzz` goes on for longer."""

from __future__ import annotations

import shutil

import pytest

from tests.fuzz import TARGETS, fuzz


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_any_bytes_give_a_value_or_the_declared_error(target: str) -> None:
    """Fifty inputs at least, honest ones with changes and noise."""
    if target == "video" and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg, which makes the clips")
    outcome = fuzz(target, seconds=0.5, seed=6)
    assert outcome.findings == []
    assert outcome.examples >= 50
