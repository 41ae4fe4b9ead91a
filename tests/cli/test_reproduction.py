"""The command `fasticcl reproduce`: its errors, and the runs that it names at the end."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fasticcl.cli import completion
from fasticcl.cli.reproduction import failure_message
from fasticcl.reproduce.runner import Failure


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table9"], "There is no 'table9' in the paper's results. Did you mean table8?"),
        (["table1", "--part", "4/3"], "--part expects I/N with I from 1 to N, for example 1/3, got '4/3'."),
        (["table1", "--part", "half"], "--part expects I/N"),
        (["table1", "--part", "0/3"], "--part expects I/N"),
        (["table1", "--seeds", "0"], "greater than or equal to 1"),
        (["table1", "--jobs", "0"], "greater than or equal to 1"),
        (["table1", "--rows", "ce,ice"], "table1 has no row 'ice'."),
        (["table1", "--columns", "cifar10-lt-20"], "table1 has no column 'cifar10-lt-20'."),
        (["table1", "--on", "nowhere"], "'nowhere' is neither a dataset preset nor a folder of shards."),
        (["table1", "--set", "optim.epoch=3"], "There is no setting optim.epoch. Did you mean optim.epochs?"),
        (["table1", "--on", "demo", "--encoder", "resnet9"], "There is no encoder 'resnet9'."),
        (["table1", "--on", "demo", "--device", "gpu"], "torch detects no GPU"),
        (["table1", "--columns", "cifar100-lt-100"], "fasticcl convert cifar100-lt DOWNLOADS"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    fasticcl_command, tmp_path, arguments, sentence, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = fasticcl_command("reproduce", *arguments)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())


def test_failures_are_listed_with_their_logs():
    failures = [
        Failure(SimpleNamespace(folder=Path("runs/demo/ce-s0")), "The loss is not finite.", Path("runs/log")),
        Failure(SimpleNamespace(folder=Path("runs/demo/crt-s0")), "needs demo/ce-s0"),
    ]
    assert failure_message(failures).splitlines() == [
        "error: 2 runs failed or could not start:",
        "  runs/demo/ce-s0: The loss is not finite. (see runs/log)",
        "  runs/demo/crt-s0: needs demo/ce-s0",
        "The same command tries again.",
    ]


@pytest.mark.parametrize(
    ("complete", "table", "typed", "expected"),
    [
        (completion.rows, "table1", "icc", ["iccl"]),
        (completion.rows, "table1", "ce,icc", ["ce,iccl"]),
        (completion.columns, "table1", "cifar10-lt-1", ["cifar10-lt-100", "cifar10-lt-10"]),
        (completion.rows, "table11", "ce", []),
        (completion.rows, None, "ce", []),
    ],
)
def test_rows_and_columns_of_the_table_are_completed(complete, table, typed, expected):
    assert complete(SimpleNamespace(params={"table": table}), typed) == expected


def test_tables_are_completed():
    assert completion.tables("figure") == ["figure3", "figure4"]
