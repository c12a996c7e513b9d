"""``fleet.toml``: what it may say, what is refused, and the file that a node's daemon gets."""

from __future__ import annotations

import io
import stat
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamer import config as configuration
from streamer import keys, probe
from streamer.config import Camera, Config, Publish
from streamer.errors import ConfigError
from streamer.fleet import settings, written
from streamer.fleet.settings import Fleet, Need

ROOT = Path(__file__).resolve().parents[2]
CAMERA = '[[cameras]]\nname = "lobby"\nurl = "rtsp://host/stream"\n'


def load(folder: Path, text: str) -> settings.FleetConfig:
    """Load a configuration from a private file."""
    path = folder / "fleet.toml"
    path.write_text(text)
    path.chmod(0o600)
    return settings.load(path)


def test_the_example_has_every_key_with_its_default() -> None:
    """It is the manual."""
    found = settings.load(ROOT / "deploy" / "fleet.toml")
    tree = tomllib.loads((ROOT / "deploy" / "fleet.toml").read_text())["fleet"]

    assert set(tree) == set(Fleet.__struct_fields__)
    assert msgspec.structs.replace(found.fleet, cameras={}) == Fleet()
    assert set(tree["cameras"]["lobby"]) == set(Need.__struct_fields__)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[fleet]\nlnk = 1", r"\[fleet\]: .*lnk.*known in \[fleet\]: name"),
        ('[fleet]\nlink = "tcp://10.0.0.1:5558"', "without keys"),
        ('[fleet]\nlink = "tcp://0.0.0.0:5558"', "no address that nodes could report to"),
        ('[fleet]\nlink = "somewhere"', "is no address"),
        ('[fleet]\nsecret_key = "/a"', "needed together"),
        ('[fleet]\nmeasured = "bench.json"', "give the whole path"),
        ("[fleet]\nlease_s = 0.1", "lease_s"),
        ('[fleet]\n[[cameras]]\nname = "x"\nurl = "rtps://host/"', "rtps:// is not known"),
        ("[fleet.cameras.garden]\ncost = 2.0", "there is no such camera"),
        (f'[fleet]\nfolder = "/{"x" * 120}"', "too long for a socket"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(
    tmp_path: Path, table: str, message: str
) -> None:
    """With the key and what to do."""
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, CAMERA + table)
    assert "\n" not in str(error.value)


def test_a_password_in_an_address_wants_keys(tmp_path: Path) -> None:
    """Or any account of the machine could call itself a node and be told it."""
    inline = CAMERA.replace("rtsp://host", "rtsp://user:pw@host")
    with pytest.raises(ConfigError, match=r"cameras\.lobby\.url: has a password in it") as refusal:
        load(tmp_path, inline)
    assert "pw@" not in str(refusal.value)
    keys = '[fleet]\nsecret_key = "/k"\nauthorized_keys = "/a"\n'
    assert load(tmp_path, inline + keys).daemon.cameras[0].url.endswith("pw@host/stream")


def test_the_daemons_own_tables_are_checked_as_ever(tmp_path: Path) -> None:
    """A fleet's file is an ordinary configuration otherwise."""
    with pytest.raises(ConfigError, match=r"analysis\.fsp: unknown key"):
        load(tmp_path, CAMERA + "[analysis]\nfsp = 1")
    assert load(tmp_path, CAMERA).fleet == Fleet()


def checked(folder: Path, text: str) -> str:
    """Return what `streamer check` prints of a configuration."""
    path = folder / "fleet.toml"
    path.write_text(text)
    path.chmod(0o600)
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        assert probe.check(path, console, probe=False) == 0
    return capture.get()


def test_check_says_what_a_fleets_file_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, on a machine without Ray too; and with its own eyes: the keys are opened."""
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    needs = '[fleet.cameras.lobby]\nneeds = { site = "west" }\ngpu = true\n'
    told = checked(tmp_path, CAMERA + needs)
    assert "valid for a fleet; 1 cameras" in told
    assert "all on this machine" in told
    assert "lobby only runs on a node with site = west and a GPU" in told
    assert "Ray is not installed here" in told

    public, secret = keys.generate(tmp_path / "keys", "fleet")
    link = '[fleet]\nlink = "tcp://192.0.2.1:5558"\nsecret_key = "{}"\nauthorized_keys = "{}"\n'
    file = '[[cameras]]\nname = "film"\nurl = "/nowhere/film.mp4"\n'
    told = checked(tmp_path, CAMERA + file + link.format(secret, public.parent))
    assert "on several machines, with keys" in told
    assert "on this machine cameras.film.url: there is no file /nowhere/film.mp4" in told
    with pytest.raises(ConfigError, match="gone"):
        checked(tmp_path, CAMERA + link.format(tmp_path / "gone", public.parent))
    with pytest.raises(ConfigError, match="there is no file"):  # where else, on one machine?
        checked(tmp_path, CAMERA + file + "[fleet]\n")


def test_the_daemon_says_whose_file_it_is(tmp_path: Path) -> None:
    """Who starts it with a fleet's file is told what to start."""
    path = tmp_path / "fleet.toml"
    path.write_text(CAMERA + "[fleet]\n")
    with pytest.raises(ConfigError, match="start it with: streamer fleet run"):
        configuration.load(path)


TEXT = st.text(min_size=1, max_size=40)


@given(url=TEXT, purpose=st.text(max_size=40), flag=st.booleans(), name=TEXT)
def test_what_is_written_is_what_is_read(url: str, purpose: str, flag: bool, name: str) -> None:  # noqa: FBT001
    """Whatever an address or a purpose consists of."""
    config = Config(
        cameras=(Camera(name="a", url=url, loop=flag), Camera(name="b", url="x")),
        publish=Publish(high_water_mark=7, server_secret_key=name),
        purpose=configuration.Purpose(declared=purpose),
    )
    assert msgspec.convert(tomllib.loads(written.toml_of(config)), Config) == config


def test_only_its_owner_can_read_what_is_written(tmp_path: Path) -> None:
    """Addresses may carry passwords."""
    path = tmp_path / "streamer.toml"
    for _ in range(2):  # a second time over the first
        written.write(Config(cameras=(Camera(name="a", url="rtsp://u:p@h/"),)), path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert configuration.load(path).cameras[0].url == "rtsp://u:p@h/"
