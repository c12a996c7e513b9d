"""The metrics of several processes as those of one: what is counted is added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamer.workers.link import Family

__all__ = ["Tally", "merged"]

_PARENTS_OWN: Final = frozenset(
    {
        "streamer_live_viewers",  # a worker sees the parent's watchers once more
        "process_start_time_seconds",
        "process_max_fds",
        "python_info",
    }
)
_COUNTED: Final = frozenset({"counter", "histogram"})
_CREATED: Final = "_created"

Key = tuple[str, tuple[tuple[str, str], ...]]


class _Sums(msgspec.Struct, kw_only=True):
    kind: str
    text: str
    values: dict[Key, float] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        key = (name, tuple(labels.items()))
        before = self.values.get(key)
        if before is not None:
            value = min(before, value) if name.endswith(_CREATED) else before + value
        self.values[key] = value


class Tally:
    """What processes that have ended had counted, so that no counter ever goes back."""

    def __init__(self) -> None:
        self._families: dict[str, _Sums] = {}

    def add(self, families: Iterable[Family]) -> None:
        """Take over the counters and histograms of a process."""
        for family in families:
            if family.kind in _COUNTED:
                _add(self._families, family)

    def forget(self, camera: str) -> None:
        """Drop the series of a camera that is no longer configured."""
        for sums in self._families.values():
            for key in [key for key in sums.values if ("camera", camera) in key[1]]:
                del sums.values[key]

    def pour(self, sums: dict[str, _Sums]) -> None:
        """Add everything to ``sums``."""
        for name, mine in self._families.items():
            into = sums.setdefault(name, _Sums(kind=mine.kind, text=mine.text, values={}))
            for (sample, labels), value in mine.values.items():
                into.add(sample, dict(labels), value)


def merged(
    own: Iterable[Metric], workers: Iterable[Iterable[Family]], tally: Tally
) -> list[Metric]:
    """Return the metrics of a parent, its workers and those before them.

    Counters, histograms and gauges are added up, label by label: a camera is in one worker alone,
    and the memory of all processes is their sum. What describes a process is the parent's.

    Args:
        own: the parent's.
        workers: of each worker that runs.
        tally: of those that ran before.
    """
    sums: dict[str, _Sums] = {}
    for metric in own:
        found = sums[metric.name] = _Sums(kind=metric.type, text=metric.documentation, values={})
        for sample in metric.samples:
            found.add(sample.name, sample.labels, sample.value)
    for families in workers:
        for family in families:
            if family.kind != "info" and family.name not in _PARENTS_OWN:
                _add(sums, family)
    tally.pour(sums)
    return [_metric(name, found) for name, found in sums.items()]


def _add(sums: dict[str, _Sums], family: Family) -> None:
    into = sums.setdefault(family.name, _Sums(kind=family.kind, text=family.text, values={}))
    for name, labels, value in family.samples:
        into.add(name, labels, value)


def _metric(name: str, sums: _Sums) -> Metric:
    metric = Metric(name, sums.text, sums.kind)
    for (sample, labels), value in sums.values.items():
        metric.add_sample(sample, dict(labels), value)
    return metric
