"""Cameras that need a GPU, on a real Ray cluster with a node that says it has one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import zmq

from streamer.config import Camera, Config
from streamer.fleet.agent import Place
from streamer.fleet.controller import Controller
from streamer.fleet.hand import Hand
from streamer.fleet.link import Post
from streamer.fleet.settings import Fleet, FleetConfig, Need
from streamer.fleet.state import State
from tests.fleet.cluster import Cluster

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
pytest.importorskip("ray", reason="needs Ray: pip install 'emotion-streamer[fleet]'")

CAMERAS = tuple(f"c{number}" for number in range(1, 9))
NEEDY = CAMERAS[:6]


def test_cameras_that_need_a_gpu_go_where_ray_has_one(tmp_path: Path) -> None:
    """Six of eight, which is uneven. Nothing is granted here, so that no daemon has to start."""
    cameras = tuple(Camera(name=name, url=f"rtsp://host/{name}") for name in CAMERAS)
    fleet = Fleet(cameras=dict.fromkeys(NEEDY, Need(gpu=True)))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Cluster(tmp_path) as cluster:
        cluster.start_head(cpus=1)
        cluster.start("card", gpus=1)
        post = Post(context, "tcp://127.0.0.1:0", None)
        place = Place(fleet=tmp_path.name, link=post.address)
        hand = Hand(cluster.address, place, local=True, told=lambda _nodes: None)
        hand.start()
        controller = Controller(
            FleetConfig(daemon=Config(cameras=cameras), fleet=fleet),
            state=State(),
            save=lambda _state: None,
            now_s=time.monotonic(),
        )
        controller.expect(2)
        end_s = time.monotonic() + 120
        while controller.placed is None:
            assert time.monotonic() < end_s, hand.words
            post.socket.poll(100)
            while (got := post.receive()) is not None:
                controller.hear(*got, time.monotonic())
            controller.plan(time.monotonic())
        homes = {
            node.name: (node.gpu, set(node.cameras)) for node in controller.nodes(time.monotonic())
        }
        hand.stop(5.0, end_agents=False)
        post.close()
        context.term()
    assert homes.pop("card") == (True, set(NEEDY))
    assert list(homes.values()) == [(False, set(CAMERAS) - set(NEEDY))]
