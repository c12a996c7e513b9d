"""Beats that tell of a past: of a lease that has ended, or of a run that another has followed.

While a node cannot be reached its beats gather in the network, and all of them arrive when it can.
They tell of cameras that its daemon had, which others have by now; to believe them would be to take
those cameras from who reads them, for nothing.

Why it is safe not to believe them. Let ``last`` be the highest number of a beat of this run that
had been heard when its lease ended here. All that was granted until then was granted to beats up to
``last``, counts from when they were sent, and is over. So whatever the node holds after that moment
it holds by an answer to a later beat, and its own beats say so: a beat carries the number of the
last answer that had come when it was sent. A beat whose ``answered`` is not above ``last`` was sent
before the lease ended, and is old; or after, by a node that has no lease and has killed its daemon.
Either way nothing that it tells of is held now. Numbers alone decide, no clock does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streamer.fleet.link import Beat

__all__ = ["Echoes"]

_RUNS: Final = 8  # of a node; a beat outlives its agent by no more than a connection does
_NODES: Final = 2_000  # the cluster's names: a machine that is started anew is another node


class Echoes:
    """Knows them; what it has forgotten it takes for true, which interrupts and is never unsafe."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, float]] = {}  # by node and run

    def __contains__(self, beat: Beat) -> bool:
        """Whether a beat tells of a past."""
        runs = self._last.get(beat.about.node, {})
        return beat.answered <= runs.get(beat.about.run, -1.0)

    def ended(self, node: str, run: str, last: int) -> None:
        """A lease has ended: of that run nothing counts until it has heard an answer to a new one.

        Args:
            node: the cluster's name of it.
            run: of its agent.
            last: the highest number of its beats that were heard; -1 when none was.
        """
        runs = self._last.pop(node, {})  # in again as the newest
        runs[run] = max(last, runs.pop(run, -1.0))
        self._last[node] = dict(list(runs.items())[-_RUNS:])
        if len(self._last) > _NODES:
            del self._last[next(iter(self._last))]

    def followed(self, node: str, run: str) -> None:
        """A run has the node's lock: those before it have ended, and say nothing that is true."""
        for before in self._last.get(node, {}):
            if before != run:
                self._last[node][before] = math.inf
