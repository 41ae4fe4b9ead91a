"""Words and numbers of a result."""

from dataclasses import replace

import pytest

from fasticcl.reproduce.result import MetricResult, SeedStatistic
from fasticcl.reproduce.table import wording
from tests.support.reproduced_table import small_result

NOTHING = SeedStatistic({})


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return small_result(tmp_path_factory.mktemp("runs"))


def metric(paper, *values):
    return MetricResult("overall", paper, SeedStatistic(dict(enumerate(values))), NOTHING)


@pytest.mark.parametrize(
    ("values", "text"), [((), ""), ((45.04,), "45.0"), ((45.0, 46.0, 47.0), "46.0\xa0±\xa01.0")]
)
def test_accuracy_has_a_deviation_from_two_seeds_on(values, text):
    assert wording.accuracy(metric(None, *values), "last") == text


@pytest.mark.parametrize(
    ("paper", "value", "text"),
    [(46.6, 46.1, "\N{MINUS SIGN}0.5"), (46.6, 47.1, "+0.5"), (46.6, 46.58, "0.0"), (None, 1.0, "")],
)
def test_difference_has_a_sign(paper, value, text):
    assert wording.difference(metric(paper, value), "last") == text


def test_number_of_seeds_names_the_planned_ones_only_if_some_are_not_finished(result):
    def seeds(row):
        cell = result.cells[row, "digits"]
        return wording.seeds(cell, cell.metrics[0], "last").replace("\xa0", " ")

    assert (seeds("ce"), seeds("crt")) == ("n = 3", "n = 1 of 3")


def test_letters_mark_the_differences_of_single_cells(result):
    marks = wording.Marks.of(result)
    assert marks.texts == {"weight decay 0 (paper: 5e-4)": "a"}
    assert marks(result, result.cells["ce", "digits"]) == "a"
    assert marks(result, result.cells["crt", "digits"]) == ""


def test_each_difference_has_its_own_letter_and_a_cell_has_them_in_order(tmp_path):
    def differences(config, *_):
        return ["one", "three"] if config.method.name == "ce" else ["three", "two", "one"]

    result = small_result(tmp_path, differences=differences)
    before = result.cells["before", "digits"]
    result = replace(result, cells=result.cells | {("before", "digits"): replace(before, differences=())})
    marks = wording.Marks.of(result)
    assert marks.texts == {"one": "a", "three": "b", "two": "c"}
    assert [marks(result, result.cells[row, "digits"]) for row in ("ce", "crt")] == ["a,b", "a,b,c"]


def test_cells_without_a_finished_run_do_not_affect_the_differences(result):
    crt = result.cells["crt", "digits"]
    other = replace(crt, runs=crt.runs[1:], differences=("another encoder",))
    changed = replace(result, cells=result.cells | {("crt", "digits"): other})
    assert changed.common == result.common
    assert wording.Marks.of(changed).texts == wording.Marks.of(result).texts
    alone = replace(result, cells={("crt", "digits"): other})
    assert alone.common == ("another encoder",)


def test_more_than_26_differences_have_different_letters():
    letters = [wording._letter(i) for i in range(60)]
    assert letters[25:28] == ["z", "aa", "ab"]
    assert len({*letters}) == 60


def test_differences_of_all_cells_are_a_sentence(result):
    assert (
        wording.protocol_note(result)
        == "All runs differ from the protocol of the paper: 3 epochs (paper: 50)."
    )
    same = replace(result, cells={key: replace(cell, differences=()) for key, cell in result.cells.items()})
    assert wording.protocol_note(same) == "All runs follow the protocol of the paper."
    ce = result.cells["ce", "digits"]
    mixed = replace(same, cells=same.cells | {("ce", "digits"): ce})
    assert wording.protocol_note(mixed) == "Cells with a letter differ from the protocol of the paper."


def test_introduction_explains_groups_progress_and_the_missing_tail(result):
    text = " ".join(wording.introduction(result))
    for part in (
        "Table 9 of “Improving Tail",
        "n − 1",
        "fewer than 20",
        "5 of 9 runs are finished",
        "Tail has no figure",
    ):
        assert part in text
    assert "optimistic" in wording.best_note(result)
    assert "not known here" not in text
    assert "quoted authors" not in text


def test_introduction_says_that_figures_are_unknown_or_quoted(result):
    unknown = {
        key: replace(cell, metrics=tuple(replace(each, paper=None) for each in cell.metrics))
        for key, cell in result.cells.items()
    }
    text = " ".join(wording.introduction(replace(result, cells=unknown)))
    assert "our runs in percent. " in text
    assert "The figures of the paper for these cells are not known here." in text
    quoted = replace(result, rows=(replace(result.rows[0], recipe="published"), *result.rows[1:]))
    assert "the protocol of the quoted authors" in " ".join(wording.introduction(quoted))


def test_introduction_says_whether_the_paper_has_figures(result):
    assert "the figure published in the paper, and the difference" in wording.introduction(result)[0]
    without = {
        key: replace(cell, metrics=[replace(metric, paper=None) for metric in cell.metrics])
        for key, cell in result.cells.items()
    }
    text = wording.introduction(replace(result, cells=without))[0]
    assert "our runs in percent. ±" in text


def test_note_of_a_row_is_not_repeated_if_the_table_has_it(result):
    first, second, *_ = result.rows
    rows = [replace(first, note="copied"), replace(second, note="copied. Another form")]
    table = replace(result.table, note="* copied")
    assert [*wording.row_notes(replace(result, rows=rows, table=table))] == [
        "* copied.",
        f"{wording.row_title(second)}: copied. Another form.",
    ]


def test_unfinished_cell_says_its_states(result):
    cell = result.cells["crt", "digits"]
    assert (
        wording.unfinished(replace(cell, runs=cell.runs[1:]))
        == "interrupted at epoch 1 of 2 of the second stage"
    )
    assert wording.unfinished(replace(cell, runs=cell.runs[2:])) == "not trained"
    failed = replace(cell.runs[2], state="failed", detail="a long message")
    assert wording.unfinished(replace(cell, runs=(failed,))) == "failed"


@pytest.mark.parametrize(
    ("title", "tokens"),
    [
        ("CE* [1]", ["CE* [1]"]),
        ("τ-norm", [("τ", "", ""), "-norm"]),
        ("γ' = 0, ω_d = 0.5", [("γ′", "", ""), " = 0, ", ("ω", "d", ""), " = 0.5"]),
        ("L_ce + L_cc^it, warm-up", [("L", "ce", ""), " + ", ("L", "cc", "it"), ", warm-up"]),
        ("Beta(α, β) of a class", ["Beta(", ("α", "", ""), ", ", ("β", "", ""), ") of a class"]),
        ("run_name of M2m", ["run_name of M2m"]),
    ],
)
def test_symbols_are_separated_from_text(title, tokens):
    assert wording.symbols(title) == tokens
