"""One typed tree, one file, and errors that name the key."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import config
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CAMERA = '[[cameras]]\nname = "lobby"\nurl = "rtsp://camera/stream"\n'


def test_a_camera_is_all_that_is_needed() -> None:
    """Every other key has the default that the design names."""
    parsed = config.parse(CAMERA)
    assert parsed.cameras[0].name == "lobby"
    assert parsed.analysis.fps == 10.0
    assert parsed.publish.bind == "tcp://127.0.0.1:5556"
    assert parsed.publish.snapshot == "tcp://127.0.0.1:5557"
    assert parsed.http.bind == "127.0.0.1:9108"
    assert (parsed.detector.backend, parsed.engine.backend) == ("auto", "auto")
    assert (parsed.bundle.path, parsed.purpose.declared) == ("", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no camera: add a [[cameras]] table"),
        ("cameras = []", "cameras: expected list of length >= 1"),
        (CAMERA + "colour = 1", "cameras[0].colour: unknown key; known here: name, url"),
        (CAMERA + "[analyis]\nfps = 1", "analyis: unknown key; known here: cameras, analysis"),
        (CAMERA + "[analysis]\nfps = '10'", "analysis.fps: expected float, got str"),
        (CAMERA + "[analysis]\nfps = -1", "analysis.fps: expected float >= 0"),
        (CAMERA + "[analysis]\nrate = 1", "analysis.rate: unknown key; known here: fps"),
        (CAMERA.replace("lobby", "Lobby 1"), "cameras[0].name: expected 1 to 64 of the"),
        (CAMERA + CAMERA, "cameras[1].name: 'lobby' is used twice"),
        ('[[cameras]]\nname = "a"', "cameras[0].url: is missing"),
        (CAMERA + "[publish]\nserver_secret_key = 'x'", "authorized_keys are needed together"),
        (CAMERA + "[emotions]\nexit = 0.9", "emotions.exit must not exceed emotions.enter"),
        ("cameras = [", "not TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(text: str, said: str) -> None:
    """A person finds the place from the message alone."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, place="streamer.toml")
    message = str(caught.value)
    assert message.startswith("streamer.toml: ")
    assert said in message
    assert "\n" not in message
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "url",
    ["rtsp://[fe80::1/s", "rtsp://user:p[a]ss@host/s", "rtsp://user:hunter2@host:port/s"],
)
def test_a_malformed_address_is_one_line_without_it(url: str) -> None:
    """Its text may be a password, so the key alone is told."""
    with pytest.raises(ConfigError, match=r"cameras\[0\]\.url: not a valid address") as caught:
        config.parse(f'[[cameras]]\nname = "a"\nurl = "{url}"\n')
    assert "hunter2" not in str(caught.value)
    assert "'a'" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:my Secret99@127.0.0.1:5999/1",
        " rtsp://admin:Secret99@camera/1",
        "rtsp:/admin:my Secret99@camera/1",
        "http://camera/mjpg?password=my Secret99",
        "rtsp://admin:my\\tSecret99@camera/1",
        "rtsp://admin:my\u2003Secret99@camera/1",
    ],
)
def test_white_space_in_an_address_is_refused_without_it(url: str) -> None:
    """No camera takes it as it is, and where the password in it ends nobody could tell."""
    with pytest.raises(ConfigError, match=r"cameras\[0\]\.url: has white space .* %20") as caught:
        config.parse(f'[[cameras]]\nname = "a"\nurl = "{url}"\n')
    assert "Secret99" not in str(caught.value)


def test_white_space_in_the_address_of_a_mirror_is_refused_without_it() -> None:
    """As in a camera's; a folder may have a blank in its name."""
    with pytest.raises(ConfigError, match=r"detector\.mirror: has white space") as caught:
        config.parse(f'{CAMERA}[detector]\nmirror = "https://bob:my Secret99@host/"\n')
    assert "Secret99" not in str(caught.value)
    config.parse(f'{CAMERA}[detector]\nmirror = "/srv/my models"\n')


@pytest.mark.parametrize("url", ["/data/my clip.mp4", "file:///data/my clip.mp4"])
def test_a_file_may_have_a_blank_in_its_name(url: str) -> None:
    """A path is no address of the network."""
    assert config.parse(f'[[cameras]]\nname = "a"\nurl = "{url}"\n').cameras[0].url == url


def test_credentials_need_a_host() -> None:
    """For a device or a file they would end up in its path."""
    text = '[[cameras]]\nname = "a"\nurl = "/dev/video0"\ncredentials = "/etc/secret"\n'
    with pytest.raises(ConfigError, match=r"cameras\[0\]\.credentials: are for addresses"):
        config.parse(text)


def test_a_secret_in_place_of_a_file_name_is_not_told() -> None:
    """People type the secret itself where its file is asked for."""
    camera = config.Camera(name="a", url="rtsp://camera/s", credentials="admin:hunter2")
    with pytest.raises(ConfigError, match="names no readable file") as caught:
        config.camera_url(camera)
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        config.load(tmp_path / "none.toml")


def test_a_password_in_a_file_that_all_may_read_is_refused(tmp_path: Path) -> None:
    """The same file is taken once it is private, and the message does not hold the password."""
    path = tmp_path / "streamer.toml"
    path.write_text('[[cameras]]\nname = "a"\nurl = "rtsp://user:hunter2@camera/stream"\n')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod o-r") as caught:
        config.load(path)
    assert "hunter2" not in str(caught.value)
    query = path.with_name("query.toml")
    query.write_text('[[cameras]]\nname = "a"\nurl = "http://camera/mjpg?usr=x&pass=hunter2"\n')
    query.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod o-r"):
        config.load(query)
    query.write_text('[[cameras]]\nname = "a"\nurl = "rtsp://nvr/live?channel=1&subtype=0"\n')
    assert config.load(query).cameras[0].url.endswith("subtype=0")
    path.chmod(0o640)
    assert config.load(path).cameras[0].url == "rtsp://user:hunter2@camera/stream"


@pytest.mark.parametrize(
    "mirror",
    ["https://bob:Secret99@host/models", "https://host/models?X-Signature=Secret99"],
)
def test_the_password_of_a_mirror_is_kept_as_that_of_a_camera(mirror: str, tmp_path: Path) -> None:
    """The key is named, and not what it holds; a text for people may say what it wants."""
    path = tmp_path / "streamer.toml"
    path.write_text(f'{CAMERA}[purpose]\ndeclared = "https://host/why?page=7"\n')
    path.chmod(0o644)
    assert config.load(path).purpose.declared == "https://host/why?page=7"
    path.write_text(f'{CAMERA}[detector]\nmirror = "{mirror}"\n')
    with pytest.raises(
        ConfigError, match=r"detector\.mirror holds a password.*chmod o-r"
    ) as caught:
        config.load(path)
    assert "Secret99" not in str(caught.value)
    path.chmod(0o640)
    assert config.load(path).detector.mirror == mirror


def test_credentials_come_from_a_private_file(tmp_path: Path) -> None:
    """They are put into the address, quoted."""
    secret = tmp_path / "secret"
    secret.write_text("guest:p@ss/word\n")
    secret.chmod(0o600)
    camera = config.Camera(name="a", url="rtsp://camera:554/s?x=1", credentials=str(secret))
    assert config.camera_url(camera) == "rtsp://guest:p%40ss%2Fword@camera:554/s?x=1"
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="readable by everyone"):
        config.camera_url(camera)


def test_a_systemd_credential_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is looked up where the service manager put it."""
    (tmp_path / "lobby").write_text("guest:secret")
    (tmp_path / "lobby").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    camera = config.Camera(name="a", url="rtsp://camera/s", credentials="lobby")
    assert config.camera_url(camera) == "rtsp://guest:secret@camera/s"


@given(st.text(max_size=300))
def test_any_text_gives_a_configuration_or_an_error(text: str) -> None:
    """Nothing but a ConfigError ever leaves the parser."""
    with contextlib.suppress(ConfigError):
        config.parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    ),
    st.sampled_from([*config.Config.__struct_fields__, "other"]),
)
def test_any_value_for_a_section_gives_an_error_that_names_it(value: object, key: str) -> None:
    """A value of a wrong shape is told by its key, whatever it is."""
    tree = {"cameras": [{"name": "a", "url": "x"}], key: value}
    said = key
    try:
        msgspec.convert(tree, config.Config)
    except msgspec.ValidationError as error:
        said = config._in_words(str(error), tree)
    assert key in said
