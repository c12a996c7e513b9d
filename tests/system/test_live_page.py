"""The live page of the real daemon, on a real camera, in a real browser."""

from __future__ import annotations

import subprocess
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By

from streamer.events import EmotionSample
from tests.browser import (
    chromium_missing,
    console_of,
    faces,
    open_chromium,
    requested_by,
    tile,
    until,
)
from tests.daemon import DaemonProcess, collect, wait_for
from tests.rtsp_server import RtspServer, rtsp_missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium import webdriver

    from streamer.events import Box

pytestmark = [
    pytest.mark.browser,
    pytest.mark.rtsp,
    pytest.mark.skipif(bool(chromium_missing()), reason=chromium_missing() or "there"),
    pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "there"),
    pytest.mark.timeout(180),
]

# A portrait on plain grey that swings left and right, at most 283 of the 640 pixels a second.
WIDTH, HEIGHT, PATCH, SWING = 640, 360, 200, 180
SPEED_PX_S = 2 * 3.1416 * SWING / 4.0
# The face's centre within the patch: 223 of 512 in the portrait, of which 98..348 are shown.
FACE = (223 - 98) / 250

# Keeps what a tile draws: the picture before the boxes are on it, the boxes, the frame's number.
RECORD = """
const kind = CanvasRenderingContext2D.prototype;
const { clearRect, drawImage, roundRect } = kind;
window.drawn = {};
const of = (paint) => paint.canvas.closest?.(".screen")?.closest(".tile")?.dataset;
kind.clearRect = function (...all) {
  const tile = of(this);
  if (tile) window.drawn[tile.camera] = {boxes: [], width: this.canvas.width};
  return clearRect.apply(this, all);
};
kind.drawImage = function (...all) {
  const tile = of(this);
  if (tile) window.drawn[tile.camera].picture = [...readRow(all[0])];
  return drawImage.apply(this, all);
};
kind.roundRect = function (...all) {
  const tile = of(this);
  if (tile) Object.assign(window.drawn[tile.camera], {seq: Number(tile.seq)}).boxes.push(all);
  return roundRect.apply(this, all);
};
function readRow(bitmap) {  // the greens of a row through the middle of the picture
  const copy = new OffscreenCanvas(bitmap.width, bitmap.height);
  const paint = copy.getContext("2d");
  paint.drawImage(bitmap, 0, 0);
  const row = paint.getImageData(0, bitmap.height / 2, bitmap.width, 1).data;
  return row.filter((_, i) => i % 4 === 1);
}
"""


@pytest.fixture(scope="module")
def swinging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of a face whose place in every picture is known."""
    skimage = pytest.importorskip("skimage", reason="needs scikit-image's portrait")
    portrait = files(skimage.__name__) / "data" / "astronaut.png"
    clip = tmp_path_factory.mktemp("clip") / "swinging.mp4"
    place = f"(W-w)/2+{SWING}*sin(2*PI*t/4)"
    subprocess.run(
        [
            *("ffmpeg", "-v", "error", "-f", "lavfi"),
            *("-i", f"color=c=gray:s={WIDTH}x{HEIGHT}:r=25:d=8", "-i", str(portrait)),
            "-filter_complex",
            f"[1]crop=250:250:98:0,scale={PATCH}:{PATCH}[p];[0][p]overlay=x='{place}':y=80",
            *("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "25", clip),
        ],
        check=True,
    )
    return clip


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that notes what the page draws and asks for."""
    with open_chromium(network=True) as browser:
        browser.set_window_size(1300, 1000)
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORD})
        yield browser


def test_the_page_of_a_running_daemon(
    shared: Path, swinging: Path, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    """Tiles, moving labels, boxes on their faces, a camera that dies and comes back."""
    with RtspServer({"swing": swinging}) as server:
        cameras = {
            "stream": server.url("swing"),
            "file": str(shared / "video" / "distress_to_smile.mp4"),
        }
        body = "".join(
            f'[[cameras]]\nname = "{name}"\nurl = "{url}"\nloop = true\n'
            for name, url in cameras.items()
        )
        body += f'[detector]\nmirror = "{shared / "models"}"\n[purpose]\ndeclared = "a test"\n'
        with DaemonProcess(tmp_path, body) as daemon, daemon.subscriber() as events:
            collect(events, lambda got: len({e.source for e in got if is_sample(e.data)}) == 2, 40)
            assert daemon.metric("streamer_live_pictures_total") == {}

            chromium.get(f"http://127.0.0.1:{daemon.ports[2]}/")
            until(chromium, lambda b: all(len(faces(b, name)) == 1 for name in cameras), 20)
            assert "a test" in chromium.find_element(By.ID, "purpose").text
            labels_move(chromium)
            boxes_are_on_their_faces(chromium)
            boxes_are_those_of_the_events(chromium, daemon)
            assert sum(daemon.metric("streamer_live_pictures_total").values()) > 20

            server.kill()
            killed_camera_is_shown(chromium)
            server.restart()
            until(chromium, lambda b: len(faces(b, "stream")) == 1, 30)

            assert console_of(chromium) == []
            asked = requested_by(chromium)
            own = f"http://127.0.0.1:{daemon.ports[2]}/"
            assert len(asked) >= 6
            assert [url for url in asked if not url.startswith((own, "blob:", "data:"))] == []
            chromium.get("about:blank")
            wait_for(lambda: daemon.metric("streamer_live_viewers") == {"": 0.0}, 5, "no viewer")


def is_sample(data: object) -> bool:
    """Tell whether an event is a reading."""
    return isinstance(data, EmotionSample)


def labels_move(browser: webdriver.Chrome) -> None:
    """The face that goes from distress to a smile gets another label and other bars."""
    bars = '[data-camera="file"] .fill'
    style = "return [...document.querySelectorAll(arguments[0])].map((e) => e.style.transform)"
    before, label = browser.execute_script(style, bars), faces(browser, "file")[0].split("\n")[0]
    until(browser, lambda b: b.execute_script(style, bars) != before)
    until(browser, lambda b: (faces(b, "file") or [label])[0].split("\n")[0] != label, 20)


def drawn(browser: webdriver.Chrome, camera: str) -> dict[str, Any]:
    """Return what a tile has drawn last: picture row, boxes, frame number."""
    script = (
        "const it = window.drawn[arguments[0]]; return it?.picture && it.boxes.length ? it : null"
    )
    got: dict[str, Any] = until(browser, lambda b: b.execute_script(script, camera))
    return got


def boxes_are_on_their_faces(browser: webdriver.Chrome) -> None:
    """In the very picture that is shown the box is where the face is, however fast it moves."""
    places, errors = [], []
    for _ in range(12):
        shown = drawn(browser, "stream")
        row = shown["picture"]
        inside = [i for i, value in enumerate(row) if abs(value - 128) > 12]
        scale = WIDTH / len(row)
        left = inside[0] * scale
        x, _y, width, *_ = shown["boxes"][0]
        centre = (x + width / 2) * WIDTH / shown["width"]
        places.append(left)
        errors.append(centre - (left + FACE * PATCH))
        time.sleep(0.3)
    assert max(places) - min(places) > SWING  # it did move
    # A box of the frame before or after would be off by a tenth of a second's way: 28 pixels.
    assert max(abs(error) for error in errors) < SPEED_PX_S / 10 / 2, errors


def boxes_are_those_of_the_events(browser: webdriver.Chrome, daemon: DaemonProcess) -> None:
    """The page and the events say the same of the same frame."""
    with daemon.subscriber("emotion.sample/stream/") as events:
        got = collect(events, lambda got: len(got) >= 3, 10)
        shown = [drawn(browser, "stream")]
        boxes: dict[int, Box] = {}
        for event in got + collect(events, lambda more: len(more) >= 10, 10):
            if isinstance(event.data, EmotionSample):
                boxes[event.data.frame.seq] = event.data.box
    (one,) = shown
    x, y, width, height = (value * WIDTH / one["width"] for value in one["boxes"][0][:4])
    assert boxes[one["seq"]] == pytest.approx((x, y, x + width, y + height), abs=0.2)


def killed_camera_is_shown(browser: webdriver.Chrome) -> None:
    """State and reason in words, neither picture nor faces of before, the other one goes on."""
    stream = tile(browser, "stream")
    until(browser, lambda _: stream.get_attribute("data-state") == "offline", 20)
    until(browser, lambda _: "offline for" in stream.text)
    reasons = ("The camera refuses connections", "The recording has ended", "The device failed")
    assert any(reason in stream.text for reason in reasons), stream.text
    assert faces(browser, "stream") == []
    assert stream.get_attribute("data-seq") == ""
    until(browser, lambda b: b.title == "1/2 online · streamer")
    status = browser.find_element(By.CSS_SELECTOR, "[role=status]").get_attribute("textContent")
    assert str(status).startswith("Camera stream is offline: ")
    file = tile(browser, "file")
    seq = file.get_attribute("data-seq")
    until(browser, lambda _: file.get_attribute("data-seq") != seq)
