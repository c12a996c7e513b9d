"""What the configuration means for each part, and that no message quotes a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streamer import assets, config, settings
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def camera(url: str) -> config.Camera:
    """Return a camera."""
    return config.Camera(name="a", url=url)


@pytest.mark.parametrize(
    "url",
    [
        "admin:hunter2@10.0.0.1:554/stream",
        "rtsp:/admin:hunter2@10.0.0.1/stream",
        "rtps://admin:hunter2@10.0.0.1/stream",
        "/nonexistent.mp4",
        "file:///nonexistent.mp4",
    ],
)
def test_a_mistyped_address_is_refused_without_its_secret(url: str) -> None:
    """A missing file and an unknown scheme are mistakes; the value may hold a password."""
    with pytest.raises(ConfigError, match=r"cameras\.a\.url: ") as caught:
        settings.capture_options(camera(url))
    assert "hunter2" not in str(caught.value)


def test_what_may_come_later_is_accepted(tmp_path: Path) -> None:
    """A device that is not plugged in and a host that is down are no mistakes."""
    (tmp_path / "clip.mp4").touch()
    for url in ("/dev/video99", "rtsp://user:pw@nowhere.invalid/s", str(tmp_path / "clip.mp4")):
        assert settings.capture_options(camera(url)).url == url


def test_a_mirror_takes_no_password() -> None:
    """It could end up in a log, and no server that needs it is supported."""
    asset = assets.ASSETS["yunet"]
    with pytest.raises(ConfigError, match="takes no user and password") as caught:
        list(
            assets._attempts(
                asset, mirror="http://admin:hunter2@mirror/", offline=False, progress=None
            )
        )
    assert "hunter2" not in str(caught.value)
