"""Probes run in this process, where all packages can be imported."""

import json

import pytest

from fasticcl.doctor import probes
from fasticcl.doctor.reference_image import color_error


@pytest.mark.parametrize("name", ["dali_decoding", "joint_decoding"])
def test_decoders_reproduce_the_reference_image(name):
    assert color_error(probes.PROBES[name]()["colors"]) <= 2


def test_whole_images_and_regions_are_decoded_alike():
    whole, regions = (probes._decode_with_dali("cpu", regions=regions) for regions in (False, True))
    assert whole == regions


def test_main_writes_one_json_line_per_probe_and_continues_after_an_error(monkeypatch, capsys):
    def broken():
        raise OSError("no library")

    monkeypatch.setattr(probes, "PROBES", {"broken": broken, "working": lambda: {"version": "1.0"}})
    probes.main(["broken", "working"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"probe": "broken", "error": "OSError: no library"},
        {"probe": "working", "values": {"version": "1.0"}},
    ]
