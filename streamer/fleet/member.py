"""One node as the fleet sees it: its lease, what it was told, and what it may be reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamer.fleet.link import Share

if TYPE_CHECKING:
    from streamer.config import Camera, Config
    from streamer.fleet.link import About, Beat
    from streamer.fleet.state import Held

__all__ = ["MARGIN_S", "Member"]

MARGIN_S: Final = 1.0
"""A lease is over here so much later than on the node: what the clocks' rates may differ by in a
minute is a thousandth of it, the rest is for a daemon that is being killed."""
_FAILURES: Final = 3
_UNFIT_S: Final = 300.0
"""So long no camera is given to a node whose daemon ended so often in a row."""


class Member:
    """A node that has a lease.

    Args:
        about: what it is.
        held: every camera that it may be reading.
        lease_end_s: until when, if it was granted by an earlier run of the fleet.
        now_s: the time.

    Attributes:
        peer: where to send orders; None before it has been heard of.
        beat: the last one; None as above.
        share: what it is to run; None before that is known.
        may_hold: every camera that it may be reading, by all that is known.
        heard_s: when it was heard of last, or when its lease was known of.
        last: the highest number of its beats; -1 before the first.
    """

    def __init__(
        self, about: About, *, held: frozenset[str], lease_end_s: float, now_s: float
    ) -> None:
        self.about = about
        self.peer: bytes | None = None
        self.beat: Beat | None = None
        self.share: Share | None = None
        self.may_hold = held
        self.heard_s = now_s
        self.last = -1
        self._applied: dict[str, Camera] = {}  # what it had done when it was last settled
        self._grants = [(-1, lease_end_s)]  # which beat was answered, and until when it may go on
        self._unfit_until_s = 0.0

    @staticmethod
    def of(held: Held, *, lease_end_s: float, now_s: float) -> Member:
        """Return one that an earlier run of the fleet knew."""
        cameras = frozenset(held.cameras)
        return Member(held.about, held=cameras, lease_end_s=lease_end_s, now_s=now_s)

    @property
    def lease_end_s(self) -> float:
        """When the last of the leases ends that the node may be going by.

        It goes by the one whose answer came last: what was granted before that it has given up.
        """
        return max(end_s for _, end_s in self._grants)

    @property
    def shared(self) -> frozenset[str]:
        """The cameras that it is to run."""
        return frozenset() if self.share is None else names(self.share)

    @property
    def settled(self) -> bool:
        """Whether it has done what it was told."""
        beat, share = self.beat, self.share
        return beat is not None and share is not None and beat.version == share.version

    @property
    def warm(self) -> bool:
        """Whether its daemon runs, so that another camera is a matter of a moment."""
        return self.beat is not None and self.beat.daemon == "running"

    def hear(self, peer: bytes, beat: Beat, *, lease_s: float, now_s: float) -> None:
        """Take a beat, whose answer is going to grant a lease."""
        before = 0 if self.beat is None else self.beat.failures
        self.peer, self.beat, self.heard_s = peer, beat, now_s
        self.last = max(self.last, beat.number)
        known = any(number == beat.answered for number, _ in self._grants)
        self._grants = [
            (number, end_s)
            for number, end_s in self._grants
            if end_s > now_s and (number >= beat.answered or not known)
        ]
        self._grants.append((beat.number, now_s + lease_s + MARGIN_S))
        self.may_hold |= frozenset(beat.holding)
        if self.settled:  # a daemon that has died is started again with its share
            self.may_hold = frozenset(beat.holding) | self.shared
            self._applied = {} if self.share is None else {c.name: c for c in self.share.cameras}
        if beat.failures >= _FAILURES and beat.failures > before:  # said again with every beat
            self._unfit_until_s = now_s + _UNFIT_S

    def runs(self, camera: Camera) -> bool:
        """Whether its daemon reads a camera of its share, also while it takes others."""
        beat = self.beat
        if beat is None or beat.daemon != "running":
            return False
        return camera.name in beat.holding and self._applied.get(camera.name) == camera

    def fit(self, now_s: float) -> bool:
        """Whether its daemon can be relied on."""
        return now_s >= self._unfit_until_s

    def give(self, version: int, config: Config | None) -> None:
        """Take note of what it is told from now on; before it is told."""
        self.share = Share(version=version, config=config)
        self.may_hold |= self.shared


def names(share: Share) -> frozenset[str]:
    """Return the names of a share's cameras."""
    return frozenset(camera.name for camera in share.cameras)
