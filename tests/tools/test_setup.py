"""Output of `tools/setup`, with a fake Python and a fake pip."""

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
INSTALLING = "Installing fasticcl and its dependencies into .venv (7 GB and several minutes the first time)\n"
OUTPUT = f"""Creating a virtual environment in .venv with Python 3.11.99
{INSTALLING}  torch 2.15.0, 812.3 MB
  nvidia_cudnn_cu13 9.15, 1.1 GB
Unpacking them into .venv (last step)
"""


@pytest.fixture
def setup(tmp_path):
    """A function that runs `tools/setup` in a temporary clone, with a pip that exits with the given code."""
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


def test_each_step_and_each_large_download_is_one_line(setup):
    process = setup()
    assert (process.returncode, process.stdout, process.stderr) == (0, f"{OUTPUT}Installed\n", "")


def test_a_second_run_does_nothing_and_prints_nothing(setup):
    setup()
    process = setup(code=1)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_output_of_a_failed_pip_is_shown_and_the_next_run_retries(setup, tmp_path):
    process = setup(code=1)
    assert (process.returncode, process.stdout) == (1, OUTPUT)
    assert "Collecting torch==2.15.0" in process.stderr
    assert process.stderr.endswith(
        "ERROR: No space left on device\n"
        "error: pip failed for the reason above. Fix it, then run tools/setup again.\n"
    )
    (tmp_path / "clone/.venv/bin/pip").write_text("#!/bin/sh\n")
    process = setup()
    assert (process.returncode, process.stdout) == (0, f"{INSTALLING}Installed\n")
