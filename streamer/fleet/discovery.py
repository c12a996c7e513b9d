"""What Prometheus is to scrape: every node's daemon and the fleet itself, in one answer.

The answer follows Prometheus' HTTP service discovery: a JSON list of target groups, each with the
labels that its series get. Whoever serves it sends ``CONTENT_TYPE`` and the status 200.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CONTENT_TYPE", "FLEET_JOB", "Target", "body"]

CONTENT_TYPE: Final = "application/json"
"""What the answer has to be called; Prometheus refuses any other type."""
FLEET_JOB: Final = "streamer-fleet"
"""The ``job`` of the fleet's own metrics; the daemons have the scrape job's name."""


class Target(msgspec.Struct, frozen=True):
    """One node's daemon, as it is scraped.

    Attributes:
        node: the node's name; becomes the label ``node``.
        address: ``host:port`` of its ``/metrics``, as seen from Prometheus.
        labels: the node's labels; ``site`` becomes ``node_site``.
    """

    node: str
    address: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class _Group(msgspec.Struct, frozen=True):
    """A target group, with the field names of the format."""

    targets: list[str]
    labels: dict[str, str]


def body(targets: Iterable[Target], *, fleet: str) -> bytes:
    """Return the answer: the fleet first, then its nodes in order of their names.

    Args:
        targets: the daemons that run now.
        fleet: ``host:port`` of the fleet's own ``/metrics``.
    """
    groups = [_Group([fleet], {"job": FLEET_JOB})]
    groups += [
        _Group([target.address], _labels(target))
        for target in sorted(targets, key=lambda target: target.node)
    ]
    return msgspec.json.encode(groups)


def _labels(target: Target) -> dict[str, str]:
    """Return a target's labels under names that Prometheus takes and no metric of ours has."""
    named = {
        "node_" + re.sub(r"[^A-Za-z0-9_]", "_", key): value
        for key, value in sorted(target.labels.items())
    }
    return {"node": target.node, **named}
