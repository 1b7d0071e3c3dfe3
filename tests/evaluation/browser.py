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
  const figures = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  return {
    scroll: root.scrollWidth, client: root.clientWidth,
    figures: figures.map(box => [box.left, box.right, box.height]),
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
        "fetched", "ink"}, …]}` and the lines of the console.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here (Debian, Ubuntu: apt-get install chromium)")
    sources = re.findall(r'<(?:image|img)\b[^>]*?\s(?:href|src)="([^"]*)"', page)
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{escape(page, quote=True)}"></iframe>'
        for width in widths
    )
    images = "".join(f'<img src="{source}">' for source in sources)
    path = folder / "frames.html"
    head = f"<!DOCTYPE html><meta charset=utf-8><script>{_MEASURE}</script><pre></pre>"
    path.write_text(head + images + frames, "utf-8")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = re.search(r"<pre>(\{.*?\})</pre>", done.stdout, flags=re.S)
    assert result, done.stderr[-2000:]
    return json.loads(unescape(result[1])), re.findall(r"CONSOLE.*", done.stderr)
