"""Shell completion of names, settings and verbs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fasticcl.cli import completion


@pytest.mark.parametrize(
    ("complete", "typed", "expected"),
    [
        (completion.datasets, "ci", ["cifar10-lt", "cifar100-lt"]),
        (completion.methods, "i", ["iccl"]),
        (completion.methods, "l", ["ldam-drw", "logit-adjustment", "logit-adjustment-post-hoc", "lws"]),
        (completion.recipes, "pu", ["published"]),
        (completion.layouts, "i", ["inat2018", "imagenet-lt"]),
        (completion.settings, "rebalance.distillation_t", ["rebalance.distillation_temperature="]),
        (completion.settings, "nothing", []),
    ],
)
def test_names_and_settings_are_completed(complete, typed, expected):
    assert complete(typed) == expected


@pytest.mark.parametrize(
    ("words", "expected"), [("fasticcl tra", ["train"]), ("fasticcl train inat", ["inat2018"])]
)
def test_bash_completes_verbs_and_datasets(words, expected):
    command = Path(sys.executable).with_name("fasticcl")
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_FASTICCL_COMPLETE": "complete_bash",
    }
    process = subprocess.run(
        [command], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert process.stdout.split() == expected
