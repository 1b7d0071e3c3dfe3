"""Chromium without a screen: what a page measures there, at several widths."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
)  # fmt: skip
_MEASURE = """
function measure(frame) {
  const page = frame.contentDocument, root = page.scrollingElement;
  page.querySelectorAll("details").forEach(details => details.open = true);
  const drawn = [...page.querySelectorAll("svg[role=img]")];
  const sides = element => (box => [box.left, box.right, box.height])(element.getBoundingClientRect());
  return {
    scroll: root.scrollWidth, client: root.clientWidth,
    figures: drawn.map(sides), boxes: drawn.map(svg => sides(svg.parentElement)),
    scales: drawn.map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width),
    tables: [...page.querySelectorAll(".scroll")].map(box => [box.scrollWidth, box.clientWidth]),
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    ink: frame.contentWindow.getComputedStyle(page.body).color,
  };
}
window.onload = () => {
  const images = [...document.querySelectorAll("img")].map(image => image.naturalWidth);
  const frames = [...document.querySelectorAll("iframe")].map(measure);
  document.querySelector("pre").textContent = JSON.stringify({images, frames});
};
"""


def measured(page: str, widths: list[int], folder: Path, *flags: str) -> tuple[dict[str, Any], list[str]]:
    """A page in frames of some widths, everything unfolded: what it measures, and what the console said.

    Nothing but the file itself can be reached.

    Returns:
        `{"images": [natural width of each image of the page], "frames": [{"scroll", "client", "figures",
        "boxes" of the figures, "scales": pixels a point, "tables": width of content and box, "fetched",
        "ink"}, …]}` and the lines of the console.
    """
    sources = re.findall(r'<(?:image|img)\b[^>]*?\s(?:href|src)="([^"]*)"', page)
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{escape(page, quote=True)}"></iframe>'
        for width in widths
    )
    images = "".join(f'<img src="{source}">' for source in sources)
    path = folder / "frames.html"
    head = f"<!DOCTYPE html><meta charset=utf-8><script>{_MEASURE}</script><pre></pre>"
    path.write_text(head + images + frames, "utf-8")
    done = _shown(path, *flags, "--dump-dom")
    result = re.search(r"<pre>(\{.*?\})</pre>", done.stdout, flags=re.S)
    assert result, done.stderr[-2000:]
    return json.loads(unescape(result[1])), re.findall(r"CONSOLE.*", done.stderr)


def screenshot(page: str, folder: Path, width: int, height: int) -> bytes:
    """The PNG of a page in a window of some size [CSS pixels]."""
    path, picture = folder / "page.html", folder / "page.png"
    path.write_text(page, "utf-8")
    _shown(path, f"--window-size={width},{height}", f"--screenshot={picture}")
    return picture.read_bytes()


def _shown(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here (Debian, Ubuntu: apt-get install chromium)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
