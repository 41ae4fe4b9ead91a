"""The figures of the paper for a run."""

import pytest

from fasticcl.paper.published import published_result
from fasticcl.paper.table import PaperTable, paper_table_names
from fasticcl.resolve import configure, resolve


@pytest.mark.parametrize(
    ("dataset", "options", "table", "figures"),
    [
        ("cifar100-lt", {}, "Table 1", {"overall": 46.6}),
        ("cifar10-lt", {"imbalance": 10}, "Table 1", {"overall": 89.7}),
        ("cifar100-lt", {"set": {"data.gamma": 1.0}}, "Table 6", {"overall": 46.2}),
        ("cifar10-lt", {"set": {"rebalance.gamma": 0.0}}, "Table 8", {"overall": 77.6}),
        (
            "imagenet-lt",
            {"method": "crt"},
            "Table 2",
            {"overall": 52.4, "many": 64.3, "medium": 49.1, "few": 30.7},
        ),
        ("imagenet-lt", {"method": "crt", "recipe": "published"}, "Table 2", {"overall": 49.6}),
        ("imagenet-lt", {"set": {"method.warmup_epochs": 0}}, "Table 4", {"overall": 53.6, "tail": 48.8}),
        ("imagenet-lt", {"method": "ce"}, "Table 7", {"overall": 46.7, "few": 9.0}),
        ("imagenet-lt", {"set": {"rebalance.epochs": 0}}, "Table 7", {"overall": 50.5}),
        ("inat2018", {}, "Table 3", {"overall": 70.5}),
        ("inat2018", {"epochs": 200}, "Table 3", {"overall": 72.5}),
        ("inat2018", {"method": "bbn", "recipe": "published", "epochs": 180}, "Table 3", {"overall": 69.7}),
    ],
)
def test_figures_of_the_setting_of_a_run(dataset, options, table, figures):
    result = published_result(configure(dataset, **options))
    assert result is not None
    assert (result.table, result.differences) == (table, [])
    assert result.figures.items() >= figures.items()
    assert (result.protocol_note, result.title) == ("", f"paper, {table}")


def test_the_last_cell_of_every_row_finds_its_figures():
    for table in map(PaperTable.read, paper_table_names()):
        for row in table.rows:
            column = [column for column in table.columns if column.name in row.paper][-1]
            figures = dict(zip(column.metrics, row.paper[column.name], strict=True))
            if row.result == "before" or None in figures.values():
                continue
            result = published_result(table.config(row, column))
            assert result is not None
            assert not result.differences
            common = figures.keys() & result.figures.keys()
            assert {metric: result.figures[metric] for metric in common} == {
                metric: figures[metric] for metric in common
            }


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("demo", {}),
        ("folder", {}),
        ("cifar100-lt", {"method": "cmo"}),
        ("imagenet-lt", {"method": "mixup"}),
        ("cifar100-lt", {"method": "m2m", "imbalance": 50}),  # "-" in Table 1
        ("cifar100-lt", {"fast_dev_run": True}),
    ],
)
def test_no_figure_for_other_datasets_methods_and_trial_runs(dataset, options):
    assert published_result(configure(dataset, **options)) is None


def test_a_run_after_another_first_stage_finds_the_row_of_both_stages():
    config = resolve("imagenet-lt", method="ce")
    stage = resolve("imagenet-lt").rebalance
    method = config.method.model_copy(update={"name": "ce+iccl"})
    result = published_result(config.model_copy(update={"rebalance": stage, "method": method}))
    assert result is not None
    assert (result.table, result.figures["overall"]) == ("Table 4", 51.3)


def test_the_sentence_names_at_most_six_differences():
    short = {"method.encoder": "resnet8", "optim.warmup_epochs": 2}
    result = published_result(configure("cifar100-lt", epochs=60, set=short), "another choice")
    assert result is not None
    assert result.summary == "Table 1: overall 46.6 %; this run differs in 3 settings"
    assert result.protocol_note == (
        "This run differs from Table 1 of the paper: another choice of images, 60 epochs (paper: 200), "
        "encoder resnet8 (paper: resnet32)."
    )
    other = short | {
        f"optim.{key}": 0.05 for key in ("lr", "momentum", "weight_decay", "warmup_start", "decay")
    }
    result = published_result(configure("cifar100-lt", epochs=60, set=other))
    assert result is not None
    assert len(result.differences) == 7
    assert result.protocol_note.endswith(", and 1 more setting.")
