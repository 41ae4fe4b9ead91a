"""What `tools/setup` says while it works, with a Python and a pip that only talk."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
case "$*" in
    --version) echo Python 3.11.99 ;;
    "-m venv --clear .venv") mkdir -p .venv/bin && cp pip .venv/bin/pip ;;
esac
"""
PIP = """#!/bin/sh
cat <<'end'
Collecting torch==2.15.0 (from -c tools/constraints.txt (line 3))
  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (29 kB)
  Downloading rich-14.2.0-py3-none-any.whl (243 kB)
Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (812.3 MB)
Using cached nvidia_cudnn_cu13-9.15-py3-none-manylinux_2_27_x86_64.whl (1.1 GB)
Downloading simplejpeg-1.9.0-cp311-cp311-manylinux_2_28_x86_64.whl (1.2 MB)
Installing collected packages: rich, torch
end
echo "ERROR: No space left on device" >&2
"""
INTO = "Installing fasticcl and what it needs into .venv (the first time: 7 GB, several minutes)\n"
SAID = f"""Making a virtual environment in .venv with Python 3.11.99
{INTO}  torch 2.15.0, 812.3 MB
  nvidia_cudnn_cu13 9.15, 1.1 GB
Unpacking them into .venv, the last step
"""


@pytest.fixture
def setup(tmp_path):
    """Run `tools/setup` in a clone of its own; pip ends with the exit code that is given."""
    (tmp_path / "clone/tools").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("tools/setup", "tools/constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    python = tmp_path / "bin/python3.11"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(code=0):
        pip = tmp_path / "clone/pip"
        pip.write_text(f"{PIP}exit {code}\n")
        pip.chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        words = [tmp_path / "clone/tools/setup"]
        return subprocess.run(words, env={"PATH": path}, capture_output=True, text=True)

    return run


def test_every_step_is_a_line_and_pip_is_silent_but_for_what_is_large(setup):
    ended = setup()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{SAID}Installed\n", "")


def test_a_second_time_there_is_nothing_to_do_or_say(setup):
    setup()
    ended = setup(code=1)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_where_pip_fails_all_that_it_said_is_shown_and_the_next_time_it_is_tried_again(setup, tmp_path):
    ended = setup(code=1)
    assert (ended.returncode, ended.stdout) == (1, SAID)
    assert "Collecting torch==2.15.0" in ended.stderr
    assert ended.stderr.endswith(
        "ERROR: No space left on device\n"
        "error: pip failed, for the reason above; when it is mended, run this again\n"
    )
    (tmp_path / "clone/.venv/bin/pip").write_text("#!/bin/sh\n")
    ended = setup()
    assert (ended.returncode, ended.stdout) == (0, f"{INTO}Installed\n")
