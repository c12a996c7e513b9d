"""A real browser on the live page: Chromium without a window, driven over WebDriver."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.remote.webelement import WebElement

__all__ = [
    "chromium_missing",
    "console_of",
    "faces",
    "open_chromium",
    "requested_by",
    "tile",
    "until",
]

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def chromium_missing() -> str:
    """Say what lacks for a browser here, in words fit for a skip; empty when nothing does."""
    if CHROMIUM is None or DRIVER is None:
        return "no Chromium: apt install chromium chromium-driver"
    return ""


@contextmanager
def open_chromium(*, network: bool = False) -> Iterator[webdriver.Chrome]:
    """Start a browser that keeps what its console says, and on request what it asks for."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    logs = {"browser": "ALL"} | ({"performance": "ALL"} if network else {})
    options.set_capability("goog:loggingPrefs", logs)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def console_of(browser: webdriver.Chrome) -> list[str]:
    """Return what the console says since it was last asked."""
    entries: list[dict[str, str]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in entries]


def requested_by(browser: webdriver.Chrome) -> list[str]:
    """Return every address that was asked for since it was last asked."""
    entries: list[dict[str, str]] = browser.get_log("performance")  # type: ignore[no-untyped-call]
    messages = [json.loads(entry["message"])["message"] for entry in entries]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def until(
    browser: webdriver.Chrome, there: Callable[[webdriver.Chrome], Any], timeout_s: float = 10
) -> Any:
    """Wait until something is so."""
    return WebDriverWait(browser, timeout_s, poll_frequency=0.05).until(there)


def tile(browser: webdriver.Chrome, camera: str) -> WebElement:
    """Return a camera's tile as soon as it is there."""
    selector = f'[data-camera="{camera}"]'
    found: WebElement = until(browser, lambda b: b.find_element(By.CSS_SELECTOR, selector))
    return found


def faces(browser: webdriver.Chrome, camera: str) -> list[str]:
    """Return the texts of a camera's faces."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)"
    found: list[str] = browser.execute_script(script, f'[data-camera="{camera}"] .face h3')
    return found
