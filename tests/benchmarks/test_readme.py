"""Commands and result files in benchmarks/README.md."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "benchmarks/README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.split()[0].endswith("python")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_an_existing_script_and_its_options(command):
    _, script, *words = shlex.split(command)
    source = (ROOT / script).read_text()
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source


def test_every_result_file_is_described():
    results = {path.name for path in (ROOT / "benchmarks/results").glob("*.json")}
    assert set(re.findall(r"`([\w-]+_2cores[\w-]*\.json)`", README)) == results


def test_every_peer_and_every_benchmark_is_described():
    for path in (ROOT / "benchmarks").glob("*.py"):
        if not path.name.startswith("_"):
            assert f"benchmarks/{path.name}" in README
    for path in (ROOT / "benchmarks/peers").glob("*.py"):
        if not path.name.startswith("_"):
            assert f"`{path.name}`" in README
