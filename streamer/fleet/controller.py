"""Who runs which camera: decides it, and sees to it that no camera is ever run twice.

Nothing here knows about sockets, threads or the cluster. Beats go in, orders come out; time is an
argument. A camera is given to a node only when no other node may be reading it: every other one has
said that it does not, or its lease is over, by which time its daemon has been killed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from streamer import __version__
from streamer.errors import StreamerError
from streamer.fleet.echoes import Echoes
from streamer.fleet.link import Orders, packed
from streamer.fleet.member import Member
from streamer.fleet.metrics import Lost
from streamer.fleet.placement import Node, place
from streamer.fleet.roster import Roster, meant
from streamer.fleet.state import Held, State
from streamer.fleet.status import CameraStatus, NodeStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer import config as configuration
    from streamer.fleet.link import About, Beat
    from streamer.fleet.placement import Camera, Placement
    from streamer.fleet.settings import FleetConfig, Need

__all__ = ["Controller", "Counts"]

_SETTLE_S: Final = 4.0
"""After the first node so long is waited for the others: else the first would get all cameras, to
give most of them away again."""
_SILENT_S: Final = 3.0  # a node beats once a second


class Counts(msgspec.Struct, kw_only=True):
    """What has happened since the start.

    Attributes:
        moves: cameras that were taken from a living node and given to another.
        losses: cameras whose node or agent was lost.
        fenced: nodes whose lease ended.
        takeovers: of cameras that run again after a loss since they were last taken from here:
            what was lost, and the time from its last sign of life, seconds.
        placings_s: how long each placement took since the last was taken from here.
    """

    moves: int = 0
    losses: int = 0
    fenced: int = 0
    takeovers: list[tuple[Lost, float]] = []
    placings_s: list[float] = []


class Controller:
    """Decides; for use by one thread.

    Args:
        config: the cameras, and what the nodes run.
        state: what an earlier run of the fleet left.
        save: keeps the state; raises a StreamerError when it cannot, and nothing is told then.
        now_s: on the clock of all later calls.

    Attributes:
        counts: what has happened.
        placed: cameras, nodes and placement of the last decision; None before the first.
    """

    def __init__(
        self, config: FleetConfig, *, state: State, save: Callable[[State], None], now_s: float
    ) -> None:
        self.counts = Counts()
        self.placed: tuple[list[Camera], list[Node], Placement] | None = None
        self._roster = Roster(config, added=state.added, removed=state.removed)
        self._save = save
        self._saved = state
        self._version = state.version
        self._lease_s = config.fleet.lease_s
        self._homes = dict(state.homes)
        self._draining = set(state.draining)
        self._waiting: dict[str, str] = {}
        ends_s = now_s + max(state.lease_s, config.fleet.lease_s) + 1.0
        # What an earlier run granted may be out until then: a crash of this one must not hide it.
        self._owed_s, self._owed_until_s = state.lease_s, ends_s
        self._members = {
            node: Member.of(held, lease_end_s=ends_s, now_s=now_s)
            for node, held in state.held.items()
        }
        self._echoes = Echoes()
        self._lost: list[tuple[str, str]] = []
        self._orphans: dict[str, tuple[Lost, float]] = {}
        self._settled_s: float | None = now_s if self._members else None
        self._expected = 0
        self._stopping = False
        self._asked: tuple[list[Node], dict[str, Camera]] | None = None

    # What the nodes say, and what time does

    def expect(self, nodes: int) -> None:
        """Take note of how many nodes the cluster has."""
        self._expected = nodes

    def hear(self, peer: bytes, beat: Beat, now_s: float) -> None:
        """Take a beat; ``orders`` is the answer."""
        if beat in self._echoes:
            return
        about = beat.about
        member = self._members.get(about.node)
        if member is not None and member.about.run != about.run:
            # the new run has the lock: nothing of the old one is left
            self._release(member, Lost.DAEMON)
            member = None
        if member is None:
            self._echoes.followed(about.node, about.run)
            member = Member(about, held=frozenset(), lease_end_s=now_s, now_s=now_s)
            self._members[about.node] = member
            if self._settled_s is None:
                self._settled_s = now_s + _SETTLE_S
        member.hear(peer, beat, lease_s=self._lease_s, now_s=now_s)
        if self._orphans and member.settled and beat.daemon == "running":
            for camera in self._orphans.keys() & set(beat.holding):
                reason, since_s = self._orphans.pop(camera)
                self.counts.takeovers.append((reason, now_s - since_s))

    def plan(self, now_s: float) -> list[tuple[bytes, Orders]]:
        """Decide anew; return orders that should not wait for a beat.

        Raises:
            StreamerError: if the state cannot be kept.
        """
        if now_s >= self._owed_until_s:
            self._owed_s = 0.0
        for member in list(self._members.values()):
            if now_s >= member.lease_end_s:
                self.counts.fenced += 1
                self._release(member, Lost.NODE)
        if not self._settling(now_s):
            self._place(now_s)
            given = self._share_out()
        else:
            given = []
        self._keep()
        return [
            (member.peer, self._orders(member, 0)) for member in given if member.peer is not None
        ]

    def answer(self, beat: Beat) -> Orders:
        """Return the answer to a beat that was heard and planned for."""
        if beat in self._echoes:  # nothing is granted: to be heard it has to hear this
            return Orders(number=beat.number, lease_s=0.0, version=0, heard=beat.number)
        return self._orders(self._members[beat.about.node], beat.number)

    def take_lost(self) -> list[tuple[str, str]]:
        """Return the cameras that have lost their node since the last call, with its name."""
        lost, self._lost = self._lost, []
        return lost

    def hand_over(self) -> None:
        """From now on grant long leases: the fleet is going to be restarted.

        Raises:
            StreamerError: if that cannot be kept; they stay short then.
        """
        short_s, self._lease_s = self._lease_s, self._roster.config.fleet.handover_s
        try:
            self._keep()
        except StreamerError:
            self._lease_s = short_s
            raise

    def stop_all(self) -> None:
        """From now on no camera is to run."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether no camera is to run."""
        return self._stopping

    @property
    def idle(self) -> bool:
        """Whether no node may be reading any camera."""
        return not any(member.may_hold for member in self._members.values())

    def _settling(self, now_s: float) -> bool:
        if self._settled_s is None:
            return True
        all_there = 0 < self._expected <= len(self._members)
        return now_s < self._settled_s and not all_there

    def _release(self, member: Member, reason: Lost) -> None:
        """A node runs nothing any more."""
        self._lost += [(camera, member.about.name) for camera in sorted(member.may_hold)]
        self._orphans |= dict.fromkeys(member.may_hold, (reason, member.heard_s))
        self.counts.losses += len(member.may_hold)
        self._echoes.ended(member.about.node, member.about.run, member.last)
        del self._members[member.about.node]

    def _place(self, now_s: float) -> None:
        nodes = [self._node(member, now_s) for member in self._named().values()]
        asked = (nodes, self._roster.needs)
        if asked == self._asked or self._stopping:
            return  # placing again what was placed moves nothing
        before, self._asked = self._homes, asked
        cameras = list(self._roster.needs.values())
        begun_s = time.perf_counter()
        placed = place(cameras, nodes, before)
        self.counts.placings_s.append(time.perf_counter() - begun_s)
        self.placed = (cameras, nodes, placed)
        self._homes, self._waiting = dict(placed.homes), dict(placed.waiting)
        alive = {node.name for node in nodes}
        self.counts.moves += sum(
            node != before.get(camera) and before.get(camera) in alive
            for camera, node in self._homes.items()
        )

    def _named(self) -> dict[str, Member]:
        """Return the members by name; of two with one name the one that was there first."""
        found: dict[str, Member] = {}
        for member in self._members.values():
            found.setdefault(member.about.name, member)
        return found

    def _node(self, member: Member, now_s: float) -> Node:
        about = member.about
        capacity = self._roster.config.fleet.capacity if about.capacity is None else about.capacity
        if not 0.0 <= capacity < math.inf:  # another machine says so
            capacity = 0.0
        usable = about.version == __version__ and member.fit(now_s)
        return Node(
            name=about.name,
            capacity=capacity if usable else 0.0,
            labels=about.labels,
            gpu=about.gpu,
            draining=about.name in self._draining,
        )

    def _share_out(self) -> list[Member]:
        """Give every node its share of what no other node may be reading; return whose changed."""
        changed = []
        named = self._named()
        holders = self._holders()
        shares: dict[str, list[configuration.Camera]] = {}
        for name, home in self._eased(named).items():
            target = named.get(home)
            if target is not None and all(one is target for one in holders.get(name, ())):
                shares.setdefault(home, []).append(self._roster.cameras[name])
        for member in self._members.values():
            mine = named.get(member.about.name) is member and not self._stopping
            cameras = tuple(shares.get(member.about.name, ())) if mine else ()
            if member.beat is None:  # of an earlier run of the fleet: it may be gone
                cameras = tuple(one for one in cameras if one.name in member.may_hold)
            config = (
                msgspec.structs.replace(self._roster.config.daemon, cameras=cameras)
                if cameras
                else None
            )
            if member.share is None or member.share.config != config:
                self._version += 1
                member.give(self._version, config)
                changed.append(member)
        return changed

    def _holders(self) -> dict[str, list[Member]]:
        """Return the nodes that may be reading each camera."""
        found: dict[str, list[Member]] = {}
        for member in self._members.values():
            for camera in member.may_hold:
                found.setdefault(camera, []).append(member)
        return found

    def _eased(self, named: dict[str, Member]) -> dict[str, str]:
        """Return the homes, but for cameras that stay until the daemon they go to has started.

        A start takes seconds, in which nobody would read them; one camera goes ahead, since a
        daemon needs one.
        """
        homes = {
            camera: home for camera, home in self._homes.items() if camera in self._roster.cameras
        }
        coming: dict[str, list[str]] = {}
        sharing = {
            camera: member.about.name
            for member in self._members.values()
            for camera in sorted(member.shared)
        }
        for camera, home in homes.items():
            target = named.get(home)
            if target is None or target.warm or sharing.get(camera) in {None, home}:
                continue
            coming.setdefault(home, []).append(camera)
        settling = Counter(homes.values())
        for home, cameras in coming.items():
            begun = settling[home] > len(cameras)  # some come from nowhere, or are there
            for camera in sorted(cameras)[0 if begun else 1 :]:
                homes[camera] = sharing[camera]
        return homes

    def _orders(self, member: Member, number: int) -> Orders:
        share, beat = member.share, member.beat
        known = share is None or (beat is not None and beat.version == share.version)
        if share is not None and share.version > self._saved.version:
            known = True  # it could not be kept, so it is not told
        return Orders(
            number=number,
            heard=member.last,
            lease_s=self._lease_s,
            version=0 if share is None else share.version,
            share=None if share is None or known else packed(share),
        )

    # What is kept

    def _keep(self) -> None:
        state = State(
            version=self._version,
            lease_s=max(self._lease_s, self._owed_s),
            homes=self._homes,
            held={
                node: Held(about=member.about, cameras=sorted(member.may_hold))
                for node, member in self._members.items()
            },
            added=self._roster.added,
            removed=self._roster.removed,
            draining=sorted(self._draining),
        )
        if state != self._saved:
            self._save(state)
            self._saved = state

    # What people say

    def reload(self, config: FleetConfig) -> None:
        """Take a configuration that was read again; see ``Roster``."""
        self._roster.reload(config)
        self._forget()

    def add(self, camera: configuration.Camera, need: Need) -> None:
        """Take one more camera; see ``Roster``."""
        self._roster.add(camera, need)

    def restore(self, name: str) -> None:
        """Run a camera of the configuration again that was removed; see ``Roster``."""
        self._roster.restore(name)

    def remove(self, name: str) -> None:
        """Run a camera no more; see ``Roster``."""
        self._roster.remove(name)
        self._forget()

    def _forget(self) -> None:
        """Wait no more for cameras that are not to run."""
        cameras = self._roster.cameras
        self._orphans = {c: one for c, one in self._orphans.items() if c in cameras}

    def drain(self, name: str, *, back: bool = False) -> bool:
        """Empty a node and give it nothing more, or take it back; False if it was so already.

        Raises:
            StreamerError: if there is none of that name.
        """
        known = {member.about.name for member in self._members.values()} | self._draining
        if name not in known:
            hint = meant(name, known) or f"there are: {', '.join(sorted(known)) or 'none yet'}"
            raise StreamerError(f"{name}: there is no node of that name; {hint}")
        if back != (name in self._draining):
            return False
        (self._draining.discard if back else self._draining.add)(name)
        return True

    # What others ask

    @property
    def cameras(self) -> Sequence[str]:
        """The names of all that are to run."""
        return tuple(self._roster.cameras)

    @property
    def places(self) -> dict[str, About]:
        """Every node that has a lease, by the cluster's name of it."""
        return {node: member.about for node, member in self._members.items()}

    @property
    def owners(self) -> dict[str, str]:
        """The node, by the cluster's name of it, that is to run a camera."""
        return {camera: node for node, member in self._members.items() for camera in member.shared}

    def nodes(self, now_s: float) -> list[NodeStatus]:
        """Tell about every node."""
        named = self._named()
        found = []
        for member in self._members.values():
            about, beat = member.about, member.beat
            node = self._node(member, now_s)
            here = sorted(c for c, home in self._homes.items() if home == about.name)
            found.append(
                NodeStatus(
                    name=about.name,
                    node=about.node,
                    host=about.host,
                    state=self._node_state(member, named, now_s),
                    daemon="unknown" if beat is None else beat.daemon,
                    cameras=here,
                    load=sum(self._roster.needs[c].cost for c in here if c in self._roster.needs),
                    capacity=node.capacity,
                    labels=about.labels,
                    gpu=about.gpu,
                    http=about.http,
                    lease_s=round(max(0.0, member.lease_end_s - now_s), 1),
                    error="" if beat is None else beat.error,
                )
            )
        return sorted(found, key=lambda one: one.name)

    def _node_state(self, member: Member, named: dict[str, Member], now_s: float) -> str:
        about = member.about
        if member.beat is None or now_s - member.heard_s > _SILENT_S:
            return "silent"
        if about.version != __version__:
            return f"has version {about.version}"
        if named.get(about.name) is not member:
            return "waits for one of the same name"
        if not member.fit(now_s):
            return "unfit"
        return "draining" if about.name in self._draining else "ready"

    def camera_states(self) -> list[CameraStatus]:
        """Tell about every camera."""
        holders = self._holders()
        return [self._camera_state(name, holders.get(name, [])) for name in self._roster.cameras]

    def _camera_state(self, name: str, holders: list[Member]) -> CameraStatus:
        home = self._homes.get(name, "")
        owner = next((m for m in holders if name in m.shared), None)
        if owner is None:
            if holders:
                reason = f"from {', '.join(m.about.name for m in holders)}"
                if not home:
                    reason += f", and then waits: {self._waiting.get(name, 'no node is there')}"
                return CameraStatus(name=name, node=home, state="moving", reason=reason)
            reason = self._waiting.get(name, "the nodes are not all there yet")
            return CameraStatus(name=name, node=home, state="waiting", reason=reason)
        beat = owner.beat
        if beat is not None and name in beat.refused:
            return CameraStatus(name=name, node=home, state="refused", reason=beat.refused[name])
        state = "running" if owner.runs(self._roster.cameras[name]) else "starting"
        return CameraStatus(name=name, node=home, state=state)
