"""Headless Chromium, and scripts in pages at desktop and phone width."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt install chromium"
)
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


def start_chromium(path, folder, *flags):
    """Open a page in Chromium and return the completed process with its output."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def run_script(page, script, folder, *flags):
    """Run a script in a page. Return the object `results`, which it fills, and the console lines."""
    (folder / "page.html").write_text(_with_script(page, script))
    return _results(folder / "page.html", folder, *flags)


def run_script_on_phone(page, script, folder, width=375):
    """Run a script as `run_script` does, in a frame narrower than Chromium's smallest window."""
    inner = html.escape(_with_script(page, script))
    frame = f'<iframe style="border: 0; width: {width}px; height: 800px" srcdoc="{inner}"></iframe>'
    (folder / "frame.html").write_text(f"<title></title><body>{frame}</body>")
    return _results(folder / "frame.html", folder, "--hide-scrollbars")[0]


def _with_script(page, script):
    script = f"<script>const results = {{}}; {script}; top.document.title = JSON.stringify(results);</script>"
    return page.replace("</body>", script + "</body>")


def _results(path, folder, *flags):
    process = start_chromium(path, folder, "--dump-dom", *flags)
    title = re.search(r"<title>(.*?)</title>", process.stdout, flags=re.DOTALL)[1]
    console = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title)), console
