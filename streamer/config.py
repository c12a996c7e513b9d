"""The configuration: one typed tree from one TOML file; only cameras have to be named."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from streamer.errors import ConfigError
from streamer.logs import redact
from streamer.systemd import credential

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Analysis",
    "Bundle",
    "Camera",
    "Config",
    "Daemon",
    "Detector",
    "Emotions",
    "Engine",
    "Http",
    "Log",
    "Publish",
    "Purpose",
    "Tracker",
    "camera_url",
    "checked",
    "load",
    "parse",
    "read",
    "tree_of",
]

_Name = Annotated[str, Meta(pattern="^[a-z0-9_-]{1,64}$")]
_Seconds = Annotated[float, Meta(gt=0, le=3600)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_LIMIT = 4 << 20  # bytes; a file of a thousand cameras is about 100 kB
_NETWORK = re.compile(r"\s*(?!file:)[a-z][\w+.-]*:/", re.IGNORECASE)
"""How an address of the network begins; a path may have blanks in it."""


class Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[cameras]]`` table.

    Attributes:
        name: the camera in events, metrics and on the live page.
        url: rtsp:// rtsps:// http(s):// a device such as /dev/v4l/by-id/… or a file.
        realtime: files only: pace by their time stamps.
        loop: files only: start again at the end.
        transport: what carries RTP for rtsp:// addresses.
        credentials: name of a systemd credential, or path of a file, that holds ``user:password``.
        open_timeout_s: deadline for connecting and for the first picture.
        read_timeout_s: deadline for each further picture; a stall is noticed this late.
        tls_verify: refuse a certificate that nobody vouches for; most cameras sign their own.
        tls_ca: PEM file of those who may vouch; empty: the system's.
    """

    name: _Name
    url: Annotated[str, Meta(min_length=1, max_length=4096)]
    realtime: bool = True
    loop: bool = False
    transport: Literal["tcp", "udp"] = "tcp"
    credentials: str = ""
    open_timeout_s: _Seconds = 5.0
    read_timeout_s: _Seconds = 4.0
    tls_verify: bool = False
    tls_ca: str = ""


class Analysis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[analysis]``.

    Attributes:
        fps: each camera's newest frame, this often; 0: every frame; also the LSTM's step.
        gap_reset_s: a track unseen for longer starts with a fresh LSTM state.
        min_face_px: a face whose box is lower than this is followed but not read.
    """

    fps: Annotated[float, Meta(ge=0, le=240)] = 10.0
    gap_reset_s: _Seconds = 1.0
    min_face_px: Annotated[float, Meta(ge=0)] = 20.0


class Detector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[detector]``.

    Attributes:
        backend: ``auto`` takes yunet where its file can be had, else mediapipe.
        input_px: the picture's longer side as the detector sees it.
        whole_s: the whole picture is looked at this often, and in between only where faces are
            known; 0: always the whole picture.
        score: the least confidence of a face.
        assets: folder of the model files; empty: the default one.
        mirror: folder or https address to fetch model files from before the vendor's own.
    """

    backend: Literal["auto", "yunet", "mediapipe"] = "auto"
    input_px: Literal[320, 480, 640] = 480
    whole_s: Annotated[float, Meta(ge=0, le=10)] = 0.2
    score: _Share = 0.6
    assets: str = ""
    mirror: str = ""


class Tracker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tracker]``: ages of tracks in seconds of media time."""

    confirm_s: Annotated[float, Meta(ge=0, le=60)] = 0.2
    lost_s: _Seconds = 2.0


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[engine]``.

    Attributes:
        backend: ``auto`` takes tensorrt where it loads and a GPU answers, else onnxruntime.
        threads: compute threads in all, workers included; 0: as many as cores may be used.
        precision: what the networks compute in on a GPU; a CPU always takes fp32.
        cache: folder of compiled engines; empty: the default one.
    """

    backend: Literal["auto", "tensorrt", "onnxruntime"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    precision: Literal["fp32", "fp16"] = "fp32"
    cache: str = ""


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[bundle]``.

    Attributes:
        path: directory of the model bundle; empty: the one in the package.
        head: ``auto`` reads over time with the bundle's own temporal head, ``ema`` with a moving
            average of single frames.
        newest: weight of the newest frame in that average; 1 takes each frame alone.
    """

    path: str = ""
    head: Literal["auto", "ema"] = "auto"
    newest: Annotated[float, Meta(gt=0, le=1)] = 0.3

    @property
    def average(self) -> float | None:
        """``newest`` where the moving average is asked for, else None."""
        return self.newest if self.head == "ema" else None


class Emotions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[emotions]``: when a reading gets a name, and when a change of it is announced.

    Attributes:
        confidence: below this share the label is ``unknown``.
        enter: a new label must reach this probability …
        exit: … or the present one must have fallen below this, …
        min_dwell_s: … and the new one must have held for this long.
    """

    confidence: _Share = 0.35
    enter: _Share = 0.5
    exit: _Share = 0.3
    min_dwell_s: Annotated[float, Meta(ge=0, le=60)] = 0.5


class Publish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[publish]``.

    Attributes:
        bind: address of the PUB socket.
        snapshot: address of the ROUTER socket that answers ``snapshot``.
        high_water_mark: events kept for one slow subscriber before it loses some.
        server_secret_key: CURVE certificate file of this daemon (or a systemd credential's name).
        authorized_keys: folder of the clients' public CURVE certificates.
        allow_remote: bind beyond loopback without CURVE.
    """

    bind: str = "tcp://127.0.0.1:5556"
    snapshot: str = "tcp://127.0.0.1:5557"
    high_water_mark: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    server_secret_key: str = ""
    authorized_keys: str = ""
    allow_remote: bool = False


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[http]``.

    Attributes:
        bind: host:port of the metrics, the health checks, the API and the live page.
        allow_remote: bind beyond loopback; asks for a token.
        token: file (or systemd credential) that holds the token.
        tls_certificate: PEM file; with ``tls_key`` the server speaks TLS.
        tls_key: PEM file (or systemd credential).
        pictures: what the live page may show: the picture, a blurred one, or boxes only.
    """

    bind: str = "127.0.0.1:9108"
    allow_remote: bool = False
    token: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    pictures: Literal["show", "blur", "omit"] = "show"


class Purpose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[purpose]``: why faces are read here; shown to whoever looks."""

    declared: Annotated[str, Meta(max_length=500)] = ""


class Daemon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[daemon]``.

    Attributes:
        workers: processes that the cameras are shared out to; 1: all in the one that is started;
            0: by the cameras there are at the start, see ``streamer.cores``.
    """

    workers: Annotated[int, Meta(ge=0, le=64)] = 0


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[log]``: how much, and whether for machines or for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    cameras: Annotated[tuple[Camera, ...], Meta(min_length=1, max_length=10_000)]
    analysis: Analysis = Analysis()
    detector: Detector = Detector()
    tracker: Tracker = Tracker()
    engine: Engine = Engine()
    bundle: Bundle = Bundle()
    emotions: Emotions = Emotions()
    publish: Publish = Publish()
    http: Http = Http()
    purpose: Purpose = Purpose()
    daemon: Daemon = Daemon()
    log: Log = Log()


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Args:
        path: the TOML file.

    Raises:
        ConfigError: one line that names the file, the key, what was expected and what to do.
    """
    text, readable = read(path)
    return checked(tree_of(text, place=str(path)), place=str(path), readable=readable)


def read(path: Path) -> tuple[str, bool]:
    """Return the text of a configuration file, and whether everyone on the machine can read it.

    Raises:
        ConfigError: as ``load`` does.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
            mode = os.fstat(file.fileno()).st_mode
    except PermissionError:
        raise ConfigError(
            f"{path}: permission denied; let the account of the service read it, as with "
            "`chgrp streamer` and `chmod 640`"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file with --config") from None
    if len(content) > _LIMIT:
        raise ConfigError(f"{path}: larger than {_LIMIT} bytes, not a configuration")
    try:
        return content.decode(), bool(mode & stat.S_IROTH)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None


def parse(text: str, *, place: str = "configuration") -> Config:
    """Check a configuration given as text; ``place`` begins each error.

    Raises:
        ConfigError: as ``load`` does.
    """
    return checked(tree_of(text, place=place), place=place)


def tree_of(text: str, *, place: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ConfigError: if it is none.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{place}: not TOML: {error}") from None


def checked(tree: dict[str, Any], *, place: str, readable: bool = False) -> Config:
    """Turn tables into a configuration.

    Args:
        tree: what the file says.
        place: begins each error.
        readable: whether everyone on the machine can read it: it must hold no password then.

    Raises:
        ConfigError: as ``load`` does.
    """
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {_in_words(str(error), tree)}") from None
    _check(config, place)
    if readable:
        _refuse_readable_secrets(config, place)
    return config


def camera_url(camera: Camera) -> str:
    """Return the camera's address with its credentials put in.

    Raises:
        ConfigError: when the credentials cannot be read.
    """
    if not camera.credentials:
        return camera.url
    secret = read_secret(camera.credentials, f"cameras.{camera.name}.credentials")
    user, colon, password = secret.partition(":")
    if not colon:
        raise ConfigError(f"cameras.{camera.name}.credentials: expected user:password in the file")
    parts = urlsplit(camera.url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def secret_path(name: str) -> Path:
    """Return the file of a systemd credential of that name, else the path itself."""
    try:
        found = credential(name)
    except ConfigError:  # a path
        found = None
    return Path(name) if found is None else found


def read_secret(name: str, key: str) -> str:
    """Read a secret from a systemd credential or a file; ``key`` names the place in errors.

    Raises:
        ConfigError: when it cannot be read, is empty, or other users of the machine may read it.
    """
    path = secret_path(name)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise ConfigError(f"{key}: {path} is readable by everyone; run: chmod o-r {path}")
            secret = file.read(64 << 10).decode().strip()
    except OSError as error:
        # Not the name: people put the secret itself there.
        raise ConfigError(
            f"{key}: names no readable file or systemd credential: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} is not text") from None
    if not secret:
        raise ConfigError(f"{key}: {path} is empty")
    return secret


def _check(config: Config, place: str) -> None:
    """Check what no single key can tell."""
    seen: set[str] = set()
    for index, camera in enumerate(config.cameras):
        if camera.name in seen:
            raise ConfigError(
                f"{place}: cameras[{index}].name: {camera.name!r} is used twice; give each camera "
                "its own name"
            )
        seen.add(camera.name)
        _refuse_blanks(
            camera.url,
            f"{place}: cameras[{index}].url",
            ", or put user and password into a file named by credentials",
        )
        try:
            parts = urlsplit(camera.url)
            _ = parts.port  # read here because reading it is what checks it
        except ValueError:  # its text may quote a part of a password
            raise ConfigError(
                f"{place}: cameras[{index}].url: not a valid address; a password with special "
                "characters belongs into a file named by credentials"
            ) from None
        if camera.credentials and not parts.netloc:
            raise ConfigError(
                f"{place}: cameras[{index}].credentials: are for addresses such as rtsp://host/…"
            )
    _refuse_blanks(config.detector.mirror, f"{place}: detector.mirror")
    if config.emotions.exit > config.emotions.enter:
        raise ConfigError(f"{place}: emotions.exit must not exceed emotions.enter")
    if bool(config.publish.server_secret_key) != bool(config.publish.authorized_keys):
        raise ConfigError(
            f"{place}: publish.server_secret_key and publish.authorized_keys are needed together"
        )
    if bool(config.http.tls_certificate) != bool(config.http.tls_key):
        raise ConfigError(f"{place}: http.tls_certificate and http.tls_key are needed together")


def _refuse_blanks(url: str, key: str, hint: str = "") -> None:
    """Refuse an address in which nobody could tell where a password ends."""
    if _NETWORK.match(url) and any(sign.isspace() for sign in url):
        raise ConfigError(f"{key}: has white space in it; write a blank as %20{hint}")


def _refuse_readable_secrets(config: Config, place: str) -> None:
    for camera in config.cameras:
        if redact(camera.url) != camera.url:
            raise ConfigError(
                f"{place}: holds the password of camera {camera.name!r}, or a parameter that may "
                f"be one, and is readable by everyone; run: chmod o-r {place}, or move the "
                "password into a file named by cameras.credentials"
            )
    for key, text in _texts(config):
        if redact(text) != text:
            raise ConfigError(
                f"{place}: {key} holds a password, or a parameter that may be one, and the file is "
                f"readable by everyone; run: chmod o-r {place}"
            )


def _texts(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and value of every text beside the cameras, but for what is there to be read."""
    for section in config.__struct_fields__:
        table = getattr(config, section)
        if section not in {"cameras", "purpose"}:
            for key in table.__struct_fields__:
                value = getattr(table, key)
                if isinstance(value, str):
                    yield f"{section}.{key}", value


_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`$")


def _in_words(message: str, tree: dict[str, object]) -> str:
    """Turn a message of msgspec into ``key.path: what is wrong``."""
    match = _PATH.search(message)
    path = match["path"] if match else ""
    text = message[: match.start()] if match else message
    if unknown := _UNKNOWN.match(text):
        if (path, unknown["name"]) == ("", "fleet"):
            return "fleet: this is the configuration of a fleet; start it with: streamer fleet run"
        known = ", ".join(_fields_at(path))
        return f"{_join(path, unknown['name'])}: unknown key; known here: {known}"
    if missing := _MISSING.match(text):
        if missing["name"] == "cameras" and "cameras" not in tree:
            return 'no camera: add a [[cameras]] table with name = "lobby" and url = "rtsp://…"'
        return f"{_join(path, missing['name'])}: is missing"
    text = text.replace("`", "").replace("Object", "table").replace("array", "list")
    if "matching regex" in text and path.endswith("name"):
        text = "expected 1 to 64 of the characters a-z 0-9 _ -"
    return f"{path or 'file'}: {text[:1].lower()}{text[1:]}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fields_at(path: str) -> tuple[str, ...]:
    section = path.partition("[")[0]
    if not section:
        return Config.__struct_fields__
    if section == "cameras":
        return Camera.__struct_fields__
    default = {f.name: f.default for f in msgspec.structs.fields(Config)}.get(section)
    return getattr(default, "__struct_fields__", ())
