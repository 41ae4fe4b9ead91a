"""Headless Chromium: what a page is in it, on a phone and on paper."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
]
DARK = "--blink-settings=preferredColorScheme=0"


def start(place, folder, *flags):
    """Open a page and return what Chromium wrote to both its outputs."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, place.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def look(text, script, folder, *flags):
    """Run a script in a page; return the object `seen` that it filled, and what the console said."""
    (folder / "page.html").write_text(_probed(text, script))
    return _seen(folder / "page.html", folder, *flags)


def look_on_phone(text, script, folder, width=375):
    """As `look`, on a screen narrower than Chromium's least window: a frame in a page."""
    inner = html.escape(_probed(text, script))
    frame = f'<iframe style="border: 0; width: {width}px; height: 800px" srcdoc="{inner}"></iframe>'
    (folder / "frame.html").write_text(f"<title></title><body>{frame}</body>")
    return _seen(folder / "frame.html", folder, "--hide-scrollbars")[0]


def _probed(text, script):
    probe = f"<script>const seen = {{}}; {script}; top.document.title = JSON.stringify(seen);</script>"
    return text.replace("</body>", probe + "</body>")


def _seen(place, folder, *flags):
    done = start(place, folder, "--dump-dom", *flags)
    title = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.DOTALL)[1]
    return json.loads(html.unescape(title)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
