"""Probes of packages that raise, crash, exit or hang on import."""

from fasticcl.doctor import probe_runner


def write_package(folder, name, text):
    path = folder / name / "__init__.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_package_that_raises_is_reported_and_next_probe_runs(tmp_path, monkeypatch):
    write_package(tmp_path, "torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    write_package(tmp_path, "torchvision", "print('{\"noise\": 1}', 'and more')\n__version__ = '0.1'")
    monkeypatch.syspath_prepend(tmp_path)
    results = probe_runner.run(("torch", "torchvision"))
    assert results["torch"].error == "OSError: libcudart.so.13: cannot open shared object file"
    assert (results["torch"].values, results["torchvision"].values) == (None, {"version": "0.1"})


def test_package_that_crashes_is_named_and_earlier_results_are_kept(tmp_path, monkeypatch):
    write_package(tmp_path, "torchvision", "__version__ = '0.1'")
    write_package(tmp_path, "torch", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.syspath_prepend(tmp_path)
    results = probe_runner.run(("torchvision", "torch", "joint_decoding"))
    assert results["torchvision"].values == {"version": "0.1"}
    assert results["torch"].error == "the process was killed by SIGSEGV"
    assert results["joint_decoding"].error == "not run because the probe torch ended the process"


def test_package_that_exits_is_reported_with_its_last_line(tmp_path, monkeypatch):
    write_package(tmp_path, "torch", "import os\nos.write(2, b'one\\nno licence\\n')\nos._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    result = probe_runner.run(("torch",))["torch"]
    assert result.error == "the process ended with exit code 7: no licence"


def test_package_that_hangs_times_out(tmp_path, monkeypatch):
    write_package(tmp_path, "torchvision", "__version__ = '0.1'")
    write_package(tmp_path, "torch", "import time\ntime.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)
    results = probe_runner.run(("torchvision", "torch"), timeout=5)
    assert results["torchvision"].values == {"version": "0.1"}
    assert results["torch"].error == "it did not finish within 5 s"


def test_folder_in_current_directory_is_not_imported(tmp_path, monkeypatch):
    write_package(tmp_path, "torchvision", "__version__ = 'mine'")
    write_package(tmp_path / "installed", "torchvision", "__version__ = '0.1'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert probe_runner.run(("torchvision",))["torchvision"].values == {"version": "0.1"}
