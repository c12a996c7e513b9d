"""Addresses: what is accepted, and what stays on this host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.address import check_address, following, is_ipv4, is_loopback
from streamer.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "loopback", "ipv4"),
    [
        ("tcp://127.0.0.1:5556", True, True),
        ("tcp://127.9.9.9:5556", True, True),
        ("tcp://[::1]:5556", True, False),
        ("tcp://[::ffff:127.0.0.1]:5556", True, False),
        ("tcp://localhost:5556", True, True),
        ("ipc:///run/streamer/events", True, True),
        ("tcp://0.0.0.0:5556", False, True),
        ("tcp://*:5556", False, True),
        ("tcp://[::]:5556", False, False),
        ("tcp://10.0.0.7:0", False, True),
        ("tcp://[::ffff:10.0.0.7]:5556", False, False),
        ("tcp://localhost.example.org:5556", False, False),
        ("tcp://127.0.0.1.example.org:5556", False, False),
        ("tcp://lo:*", False, False),
    ],
)
def test_loopback_is_told_from_the_network(address: str, loopback: bool, ipv4: bool) -> None:  # noqa: FBT001 the expected values
    """Only what can be reached from this host alone counts as loopback."""
    check_address(address, key="publish.bind")

    assert is_loopback(address) is loopback
    assert is_ipv4(address) is ipv4


@pytest.mark.parametrize(
    "address",
    [
        "",
        "tcp://",
        "tcp://:5556",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://::1:5556",
        "tcp://[::1:5556",
        "tcp://127.0.0.1:5556/x",
        "tcp://127.0.0.1:5556\n",
        "ipc://",
        "http://127.0.0.1:5556",
        "inproc://x",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """The error names the key and shows the address."""
    with pytest.raises(ConfigError, match=r"^publish\.bind: '"):
        check_address(address, key="publish.bind")


@given(st.text(max_size=40))
def test_any_text_is_either_accepted_or_refused(text: str) -> None:
    """No text makes the checks fail in any other way, and the refusal is one line."""
    try:
        check_address("tcp://" + text, key="k")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 both ways are right
    is_loopback("tcp://" + text)
    is_ipv4("tcp://" + text)


@pytest.mark.parametrize(
    ("address", "next_one"),
    [
        ("tcp://127.0.0.1:5556", "tcp://127.0.0.1:5557"),
        ("tcp://[::1]:9", "tcp://[::1]:10"),
        ("tcp://cam.example:65535", None),
        ("tcp://127.0.0.1:*", None),
        ("tcp://127.0.0.1:0", None),
        ("ipc:///run/streamer/events", None),
    ],
)
def test_the_snapshot_is_one_port_on(address: str, next_one: str | None) -> None:
    """The convention of the defaults, where an address has a port to count from."""
    assert following(address) == next_one
