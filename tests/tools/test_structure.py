"""Violations that tools/structure reports in a small source tree, and none in this one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/structure"
LONG_FUNCTION = "def long():\n" + "    pass\n" * 60
LONG_TEST_NAME = "test_" + "x" * 76


def run(*options):
    return subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)


def test_this_source_tree_has_no_violations():
    result = run()
    assert result.stdout.endswith("\nno violations\n"), result.stdout
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("files", "violation"),
    [
        ({f"fasticcl/data/m{n}.py": "" for n in range(15)}, "data: 15 modules, at most 14"),
        (
            {
                "fasticcl/data/a.py": "from fasticcl.data import b",
                "fasticcl/data/b.py": "def _f():\n    from fasticcl.data.a import x",
            },
            "import cycle: fasticcl.data.a, fasticcl.data.b",
        ),
        ({"fasticcl/data/a.py": "import fasticcl"}, "fasticcl.data.a imports the package root"),
        ({"fasticcl/data/a.py": "from fasticcl import train"}, "fasticcl.data.a imports the package root"),
        (
            {"fasticcl/data/a.py": "from fasticcl.engine import b", "fasticcl/engine/b.py": ""},
            "fasticcl.data.a imports fasticcl.engine.b",
        ),
        (
            {"fasticcl/method/a.py": "from fasticcl.data import b", "fasticcl/data/b.py": ""},
            "fasticcl.method.a imports fasticcl.data.b",
        ),
        ({"fasticcl/attic/a.py": ""}, "attic is in no layer"),
        (
            {"fasticcl/data/a.py": LONG_FUNCTION, "tests/data/test_a.py": ""},
            "fasticcl/data/a.py: long has 61 lines",
        ),
        ({"fasticcl/data/a.py": "\n" * 301}, "fasticcl/data/a.py: 301 lines"),
        ({"fasticcl/data/a.py": "class A: ..."}, "fasticcl.data.a has no tests/data/test_a.py"),
        ({"tests/test_a.py": f"def {LONG_TEST_NAME}(): ..."}, "a test name of 81 characters"),
        ({"tests/test_a.py": "import sys\nsys.path.insert(0, '.')"}, "tests/test_a.py:2: sys.path.insert"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_violation_is_reported(tmp_path, files, violation):
    for name, text in {"fasticcl/__init__.py": "", "fasticcl/data/__init__.py": "", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = run("--root", tmp_path)
    lines = [line for line in result.stdout.splitlines() if not line.startswith("UNTESTED")]
    assert any(line.startswith(violation) or violation in line for line in lines), result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize("text", ["from fasticcl import data", "from fasticcl.data import b"])
def test_imports_of_submodules_are_allowed(tmp_path, text):
    for name in ("__init__", "data/__init__", "data/b"):
        (tmp_path / "fasticcl/data").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"fasticcl/{name}.py").write_text("")
    (tmp_path / "fasticcl/data/a.py").write_text(text)
    assert "imports" not in run("--root", tmp_path).stdout
