"""Every parser against bytes that nobody meant: each input gives a value or the declared error.

    python -m tests.fuzz --seconds 60 --report fuzz.json [TARGET …]

Hypothesis makes the inputs: honest ones with pieces flipped, cut, repeated and inserted, and pure
noise. A crash of the process, or any other exception, is a finding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
from hypothesis import strategies as st

from tests.fuzz_targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Outcome", "fuzz"]

_QUIET = hypothesis.settings(
    max_examples=50,  # between two looks at the clock
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],  # inputs are kilobytes: shrinking them takes minutes
)
_MAX_FINDINGS = 3


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of one target."""

    target: str
    examples: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)


def mutated(originals: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw one of these with some places changed, or noise."""
    place = st.floats(0, 1, exclude_max=True)
    kind = st.sampled_from(("flip", "cut", "insert", "repeat", "zero", "truncate"))
    edits = st.lists(st.tuples(place, kind, st.binary(min_size=1, max_size=12)), max_size=6)
    changed = st.builds(_edited, st.sampled_from(originals), edits)
    return st.one_of(changed, changed, changed, st.binary(max_size=2000))


def _edited(original: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    data = bytearray(original)
    for place, kind, words in edits:
        at, length = int(place * len(data)), len(words)
        if kind == "flip":
            data[at : at + length] = words
        elif kind == "cut":
            del data[at : at + length * 8]
        elif kind == "insert":
            data[at:at] = words
        elif kind == "repeat":
            data[at:at] = data[at : at + length * 16]
        elif kind == "zero":
            data[at : at + length * 4] = bytes(length * 4)
        elif kind == "truncate":
            del data[at + 1 :]
    return bytes(data)


def fuzz(target: str, *, seconds: float, seed: int) -> Outcome:
    """Feed one target for some seconds.

    Args:
        target: one of ``TARGETS``.
        seconds: for how long, at least one batch of examples.
        seed: of all chance.
    """
    originals, opened = TARGETS[target]
    outcome = Outcome(target=target)
    inputs = mutated(originals())
    with opened() as check:
        begin_s = time.monotonic()

        def example(data: bytes) -> None:
            outcome.examples += 1
            try:
                check(data)
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is looked for
                place = traceback.extract_tb(error.__traceback__)[-1]
                outcome.findings.append(
                    f"{error!r} in {place.filename}:{place.lineno} of {data[:300]!r}"
                )

        while time.monotonic() - begin_s < seconds and len(outcome.findings) < _MAX_FINDINGS:
            hypothesis.seed(seed)(_QUIET(hypothesis.given(inputs)(example)))()
            seed += 1
        outcome.seconds = round(time.monotonic() - begin_s, 1)
    return outcome


def main() -> int:
    """Run from the command line; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=None, help="JSON to write")
    given = parser.parse_args()
    outcomes = []
    for target in given.targets or TARGETS:
        outcome = fuzz(target, seconds=given.seconds, seed=given.seed)
        outcomes.append(outcome)
        sys.stdout.write(
            f"{target:18} {outcome.examples:8} examples {outcome.seconds:7.1f} s "
            f"{len(outcome.findings)} findings {' '.join(outcome.findings)}\n"
        )
        sys.stdout.flush()
    if given.report is not None:
        given.report.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 1 if any(outcome.findings for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
