"""The live page in a real browser: Chromium without a window, driven over WebDriver."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from streamer.web import WebOptions, WebServer
from tests.browser import chromium_missing, console_of, faces, open_chromium, tile, until
from tests.fakes_web import FakeFeed
from tests.website import TOKEN, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium import webdriver

    from tests.website import Site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(chromium_missing()), reason=chromium_missing() or "there"),
]

# The share of a canvas that is not see-through.
PAINTED = """
const canvas = document.querySelector(`[data-camera="${arguments[0]}"] ${arguments[1]}`);
const copy = document.createElement("canvas");
[copy.width, copy.height] = [canvas.width, canvas.height];
const paint = copy.getContext("2d", { willReadFrequently: true });
paint.drawImage(canvas, 0, 0);
const data = paint.getImageData(0, 0, copy.width, copy.height).data;
let painted = 0;
for (let i = 3; i < data.length; i += 4) painted += data[i] > 0;
return painted / (data.length / 4);
"""


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Two cameras; the test's parameter gives the server's options."""
    with serving(**getattr(request, "param", {})) as site:
        site.state.online("lobby", "rtsp://bob:hunter2@cam/1")
        site.state.online("yard")
        yield site


@pytest.fixture
def feed(site: Site) -> Iterator[FakeFeed]:
    """Two faces that move before one camera, and one before the other."""
    feed = FakeFeed(site.live, {"lobby": 2, "yard": 1})
    feed.start()
    yield feed
    feed.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """One browser for all tests of the page."""
    with open_chromium() as driver:
        yield driver


@pytest.fixture
def browser(
    chromium: webdriver.Chrome,
    feed: FakeFeed,  # noqa: ARG001 - so that the page is left before the server goes
) -> Iterator[webdriver.Chrome]:
    """The browser with a window of a desktop and nothing remembered; its console stays silent."""
    chromium.set_window_size(1400, 1000)
    console_of(chromium)
    yield chromium
    console = console_of(chromium)
    chromium.get("about:blank")
    chromium.delete_all_cookies()
    assert console == []


def painted(browser: webdriver.Chrome, camera: str, canvas: str = ".screen canvas") -> float:
    """Return the share of a canvas that is painted."""
    share: float = browser.execute_script(PAINTED, camera, canvas)
    return share


def test_tiles_appear_with_picture_faces_rates_and_purpose(
    browser: webdriver.Chrome, site: Site
) -> None:
    """Whoever opens the page sees every camera and its faces within a moment."""
    browser.get(site.server.url)
    lobby = tile(browser, "lobby")
    until(browser, lambda b: len(faces(b, "lobby")) == 2 and len(faces(b, "yard")) == 1)
    assert painted(browser, "lobby") == 1.0
    assert lobby.get_attribute("data-state") == "online"
    for words in ("25.0 fps", "10.0 fps", "62 ms", "640×360 h264", "599 superseded"):
        assert words in lobby.text
    assert "Face 1" in faces(browser, "lobby")[0]
    page = browser.find_element(By.TAG_NAME, "body").text
    assert "Demonstration with synthetic faces" in page
    assert "hunter2" not in browser.page_source
    until(browser, lambda b: b.title == "2/2 online · streamer")


def test_pictures_labels_bars_and_timelines_move(browser: webdriver.Chrome, site: Site) -> None:
    """What is shown follows the faces: frames, labels, bars and the history."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    lobby = tile(browser, "lobby")
    bar = '[data-camera="lobby"] .fill'
    style = "return [...document.querySelectorAll(arguments[0])].map((e) => e.style.transform)"
    seq, bars = lobby.get_attribute("data-seq"), browser.execute_script(style, bar)
    labels = faces(browser, "lobby")
    until(browser, lambda _: int(lobby.get_attribute("data-seq") or 0) >= int(seq or 0) + 5)
    until(browser, lambda b: b.execute_script(style, bar) != bars)
    until(browser, lambda b: faces(b, "lobby") != labels)
    early = painted(browser, "lobby", ".timeline canvas")
    until(browser, lambda b: painted(b, "lobby", ".timeline canvas") > early + 0.03)


def test_a_killed_camera_shows_its_state_and_nothing_old(
    browser: webdriver.Chrome, site: Site, feed: FakeFeed
) -> None:
    """Picture and faces go, the reason comes in words, and it is announced to who cannot see."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    del feed.faces["lobby"]
    site.state.offline("lobby", "connection_refused")
    lobby = tile(browser, "lobby")
    until(browser, lambda _: lobby.get_attribute("data-state") == "offline")
    assert "The camera refuses connections" in lobby.text
    assert "offline for" in lobby.text
    assert faces(browser, "lobby") == []
    assert painted(browser, "lobby") == 0.0
    assert len(faces(browser, "yard")) == 1
    status = browser.find_element(By.CSS_SELECTOR, "[role=status]").get_attribute("textContent")
    assert status == "Camera lobby is offline: The camera refuses connections"
    assert browser.title == "1/2 online · streamer"
    site.state.online("lobby")
    feed.faces["lobby"] = 2
    until(browser, lambda b: len(faces(b, "lobby")) == 2)


def test_one_camera_alone_has_the_whole_page(
    browser: webdriver.Chrome, site: Site, feed: FakeFeed
) -> None:
    """Its picture and its faces stand side by side, and there is nothing to expand."""
    del site.state.views["yard"], feed.faces["yard"]
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    lobby = tile(browser, "lobby")
    assert lobby.size["width"] > 1300
    screen, beside = (
        lobby.find_element(By.CSS_SELECTOR, css).rect for css in (".screen", ".faces")
    )
    assert beside["x"] >= screen["x"] + screen["width"]
    assert not lobby.find_element(By.TAG_NAME, "button").is_displayed()


def test_a_picture_that_is_none_is_not_the_last(browser: webdriver.Chrome, site: Site) -> None:
    """A damaged picture costs one frame, not the tile."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    browser.execute_script(
        "const make = window.createImageBitmap;"
        "window.createImageBitmap = () => { window.createImageBitmap = make; return make(null); }"
    )
    seq = tile(browser, "lobby").get_attribute("data-seq")
    until(
        browser, lambda b: int(tile(b, "lobby").get_attribute("data-seq") or 0) > int(seq or 0) + 9
    )
    (said,) = console_of(browser)
    assert "createImageBitmap" in said


def test_a_camera_that_stalls_is_not_shown_as_live(
    browser: webdriver.Chrome, site: Site, feed: FakeFeed
) -> None:
    """An old picture is never passed off as a new one."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "yard")) == 1)
    del feed.faces["yard"]
    yard = tile(browser, "yard")
    until(browser, lambda _: yard.get_attribute("data-state") == "stale")
    assert "No picture for" in yard.text


def test_a_server_that_goes_is_noticed_and_one_that_comes_is_found(
    browser: webdriver.Chrome, site: Site
) -> None:
    """The page says that it lost the server, and goes on by itself when it is back."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    assert site.server.stop(5.0)
    link = browser.find_element(By.ID, "link")
    until(browser, lambda _: "Connection lost" in link.text)
    back = WebServer(
        options=WebOptions(bind=site.server.url.removeprefix("http://").rstrip("/")),
        state=site.state,
        live=site.live,
        metrics=site.metrics,
        clock=time,
    )
    back.start()
    try:
        until(browser, lambda _: link.text == "Live")
    finally:
        assert back.stop(5.0)
    refused = console_of(browser)
    assert all("net::ERR_" in message for message in refused), refused


def test_nothing_is_encoded_for_a_page_that_is_paused_or_hides_pictures(
    browser: webdriver.Chrome, site: Site
) -> None:
    """The switches act on the server, by key as by mouse, and are told to a screen reader."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    body = browser.find_element(By.TAG_NAME, "body")
    pictures, pause = browser.find_element(By.ID, "pictures"), browser.find_element(By.ID, "pause")
    assert pictures.get_attribute("aria-pressed") == "true"
    body.send_keys("i")
    assert pictures.get_attribute("aria-pressed") == "false"
    until(browser, lambda b: painted(b, "lobby") < 0.5)
    count = site.value("live_pictures_total", camera="lobby")
    seq = tile(browser, "lobby").get_attribute("data-seq")
    until(browser, lambda b: tile(b, "lobby").get_attribute("data-seq") != seq)
    assert site.value("live_pictures_total", camera="lobby") == count
    pause.click()
    assert (pause.text, pause.get_attribute("aria-pressed")) == ("Resume", "true")
    until(browser, lambda _: site.value("live_viewers") == 0)
    body.send_keys("p")
    pictures.click()
    until(browser, lambda b: painted(b, "lobby") == 1.0)


def test_the_keyboard_reaches_everything(browser: webdriver.Chrome, site: Site) -> None:
    """Tab goes to the skip link, the switches, each camera's button and its list of faces."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "yard")) == 1)
    reached = []
    for _ in range(8):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.append(active.get_attribute("aria-label") or active.text)
    assert reached == [
        *("Skip to the cameras", "Pause", "Pictures", "Theme: auto"),
        *("Expand lobby", "Faces on lobby", "Expand yard", "Faces on yard"),
    ]
    browser.find_element(By.CSS_SELECTOR, '[aria-label="Expand yard"]').send_keys(Keys.ENTER)
    yard = tile(browser, "yard")
    width = yard.size["width"]
    assert width > 1000
    yard.find_element(By.TAG_NAME, "button").send_keys(Keys.ESCAPE)
    until(browser, lambda _: yard.size["width"] < width / 1.5)


def test_pictures_are_described_in_words(browser: webdriver.Chrome, site: Site) -> None:
    """A screen reader hears who is on a picture, and every control has a name."""
    browser.get(site.server.url)
    canvas = tile(browser, "yard").find_element(By.CSS_SELECTOR, ".screen canvas")
    until(browser, lambda _: "face 11" in str(canvas.get_attribute("aria-label")))
    assert canvas.aria_role == "image" or canvas.get_attribute("role") == "img"
    assert tile(browser, "yard").accessible_name == "yard"
    for button in browser.find_elements(By.TAG_NAME, "button"):
        assert button.accessible_name


def test_nothing_is_loaded_from_elsewhere(browser: webdriver.Chrome, site: Site) -> None:
    """Every request of the page goes to the server that sent it."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    loaded = browser.execute_script(script)
    assert len(loaded) >= 6
    assert all(address.startswith(site.server.url) for address in loaded), loaded


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_it_fits_the_screen(browser: webdriver.Chrome, site: Site, width: int) -> None:
    """From a small phone to a desktop nothing reaches beyond the edge."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 768}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get(site.server.url)
        until(browser, lambda b: len(faces(b, "lobby")) == 2)
        root = "const root = document.documentElement; "
        assert browser.execute_script(root + "return innerWidth") == width
        assert browser.execute_script(root + "return root.scrollWidth - root.clientWidth") == 0
        beyond = (
            "return [...document.querySelectorAll('main *')].filter((e) => "
            "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.className)"
        )
        assert browser.execute_script(beyond) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read_in_both_themes(
    browser: webdriver.Chrome, site: Site, theme: str
) -> None:
    """Text has a contrast of at least 4.5 to its ground (WCAG 2.2, 1.4.3)."""
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    grounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 26, 34)"}
    script = (
        "return getComputedStyle(document.querySelector(arguments[0]))"
        ".getPropertyValue(arguments[1])"
    )
    ground = browser.execute_script(script, ".tile", "background-color")
    assert ground == grounds[theme]
    for selector in (".tile h2", ".facts dt", ".facts dd", ".face .number", ".bar .name", ".pill"):
        colour = browser.execute_script(script, selector, "color")
        assert contrast(colour, ground) >= 4.5, (selector, colour)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(first: str, second: str) -> float:
    """Return the contrast of two CSS colours as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in colour.removeprefix("rgb(")[:-1].split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("site", [{"token": TOKEN}], indirect=True)
def test_the_page_asks_for_the_token(browser: webdriver.Chrome, site: Site) -> None:
    """Without the token there is a form and nothing else; with it there is the page."""
    browser.get(site.server.url)
    field = until(browser, lambda b: b.find_element(By.ID, "token"))
    field.send_keys("wrong-token-of-some-length", Keys.ENTER)
    until(browser, lambda b: b.current_url.endswith("/login"))
    assert not browser.find_elements(By.CSS_SELECTOR, ".tile")
    browser.find_element(By.ID, "token").send_keys(TOKEN, Keys.ENTER)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    assert TOKEN not in browser.current_url
    refused = console_of(browser)
    assert all("401" in message for message in refused), refused


@pytest.mark.parametrize("site", [{"pictures": "omit"}], indirect=True)
def test_the_privacy_mode_shows_boxes_without_pictures(
    browser: webdriver.Chrome, site: Site
) -> None:
    """Faces are listed and boxed, and the picture stays empty."""
    browser.get(site.server.url)
    until(browser, lambda b: len(faces(b, "lobby")) == 2)
    assert 0 < painted(browser, "lobby") < 0.3


def test_a_camera_cannot_write_into_the_page(browser: webdriver.Chrome, site: Site) -> None:
    """Markup in what a daemon says is shown as text."""
    site.state.purpose = "<img src=x onerror=alert(1)><b>bold</b>"
    browser.get(site.server.url)
    purpose = browser.find_element(By.ID, "purpose")
    until(browser, lambda _: "<b>bold</b>" in purpose.text)
    assert purpose.find_elements(By.TAG_NAME, "img") == []
