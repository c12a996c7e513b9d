"""Takes the README's picture of the live page again: ``python -m tests.picture``.

It shows the demo's feed alone, which is made of two public-domain portraits.
"""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.browser import faces, open_chromium, until

PICTURE = Path(__file__).resolve().parents[1] / "deploy" / "pictures" / "live-page.png"
WIDTH_PX = 1200
BOTH_S = 11.0  # after the second person came in: both are in view, and the timelines are long


def take(url: str) -> bytes:
    """Open the page and return a PNG of it, when both have been in view for a while."""
    with open_chromium() as browser:
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        size = {"width": WIDTH_PX, "height": 760, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(url)
        until(browser, lambda b: not faces(b, "demo"), 30)
        until(browser, lambda b: len(faces(b, "demo")) == 2, 30)
        time.sleep(BOTH_S)
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(shot["data"])


def main() -> None:
    """Run the demo and write the picture."""
    command = [sys.executable, "-u", "-m", "streamer", "demo"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as demo:
        try:
            lines = (line.decode().split() for line in demo.stderr or ())
            url = next(words[-1] for words in lines if words[:3] == ["The", "live", "page"])
            PICTURE.parent.mkdir(exist_ok=True)
            PICTURE.write_bytes(take(url))
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(10)


if __name__ == "__main__":
    main()
