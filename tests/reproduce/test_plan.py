"""Plans: cells, shared runs and first stages, existing runs, parts."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fasticcl.engine.run.lock import lock_run
from fasticcl.errors import UserError
from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.plan import build_plan
from fasticcl.reproduce.request import Request
from fasticcl.reproduce.run_key import run_key
from tests.support.table_plans import request, write_manifest, write_run


def names(plan):
    return [job.folder.name for job in plan.jobs]


def job_of(plan, row, seed=0):
    return next(job for job in plan.jobs for cell in job.cells if (cell.row.name, cell.seed) == (row, seed))


def test_rows_with_the_first_stage_of_ce_continue_from_its_run(tmp_path):
    plan = build_plan(request(tmp_path, rows=("ce", "crt", "iccl")))
    ce, crt, iccl = (job_of(plan, row) for row in ("ce", "crt", "iccl"))
    assert ce.first_stage is None
    assert crt.first_stage == ce.folder
    assert crt.after == (ce.folder,)
    assert iccl.first_stage is None
    assert plan.problems == []
    assert not any(job.finished for job in plan.jobs)


def test_first_seed_of_all_rows_comes_first(tmp_path):
    plan = build_plan(request(tmp_path, rows=("ce", "crt", "iccl"), seeds=2))
    assert [cell.seed for job in plan.jobs for cell in job.cells] == [0, 0, 0, 1, 1, 1]
    assert [plan.job_of(cell).cells[0] for cell in plan.cells] == list(plan.cells)


def test_finished_runs_with_any_name_are_kept(tmp_path):
    wanted = request(tmp_path, rows=("ce", "crt", "iccl"))
    for row, job in zip(("ce", "iccl"), build_plan(wanted).jobs[::2], strict=True):
        write_run(job.config, f"my-{row}")
    plan = build_plan(wanted)
    assert job_of(plan, "ce").finished
    assert job_of(plan, "iccl").folder.name == "my-iccl"
    crt = job_of(plan, "crt")
    assert crt.first_stage == job_of(plan, "ce").folder
    assert crt.after == ()


def test_run_on_other_images_is_not_used(tmp_path):
    wanted = request(tmp_path, rows=("ce", "crt"))
    ce = build_plan(wanted).jobs[0]
    write_run(ce.config, checksum="b2" * 32)
    plan = build_plan(wanted)
    assert not job_of(plan, "ce").run
    assert plan.notes == [f"{ce.folder} is not used: it was trained on other images"]
    assert plan.problems == []
    assert job_of(plan, "ce").folder.name == f"{ce.folder.name}-2"
    assert job_of(plan, "crt").first_stage == job_of(plan, "ce").folder


def test_interrupted_run_is_resumed_and_others_wait_for_its_first_stage(tmp_path):
    wanted = request(tmp_path, rows=("crt", "lws"))
    crt = next(job for job in build_plan(wanted).jobs if job.cells[0].row.name == "crt")
    write_run(crt.config, first=7, second=0, finished=False)
    plan = build_plan(wanted)
    crt = job_of(plan, "crt")
    assert crt.run is not None
    assert not crt.finished
    assert crt.first_stage is None


def test_missing_shards_are_a_problem_of_their_column(tmp_path):
    plan = build_plan(request(tmp_path, columns=("cifar100-lt-100", "cifar100-lt-50"), rows=("ce",)))
    assert [cell.column.name for cell in plan.cells] == ["cifar100-lt-100"]
    root = tmp_path / "data"
    assert plan.problems == [
        f"no shards of cifar100-lt at ratio 50 in the folder {root}. Create them with: "
        f"fasticcl convert cifar100-lt DOWNLOADS {root}/cifar100-lt-50 --imbalance 50 "
        "(`fasticcl datasets` describes DOWNLOADS)"
    ]


def test_cells_without_shards_are_planned_on_request(tmp_path):
    wanted = request(tmp_path, columns=("cifar100-lt-50",), rows=("ce", "crt"))
    plan = build_plan(wanted, require_shards=False)
    assert [cell.row.name for cell in plan.cells] == ["ce", "crt"]
    assert {job.config.data.dir for job in plan.jobs} == {tmp_path / "data/cifar100-lt-50"}
    assert len(plan.problems) == 1
    assert build_plan(wanted).jobs == []


def test_finished_runs_are_kept_without_their_shards(tmp_path):
    wanted = request(tmp_path, rows=("ce", "crt"))
    write_run(build_plan(wanted).jobs[0].config)
    (tmp_path / "data" / "cifar100-lt-100" / "manifest.json").unlink()
    plan = build_plan(wanted)
    assert [cell.row.name for cell in plan.cells] == ["ce"]
    assert len(plan.problems) == 1


def test_other_epochs_keep_the_shares_and_the_second_stage(tmp_path):
    plan = build_plan(request(tmp_path, rows=("iccl",), epochs=60, encoder="resnet8"))
    config = plan.cells[0].config
    assert config.optim.epochs == 60
    assert config.method.warmup_epochs == 24  # 80 of 200
    assert config.optim.warmup_epochs == 2  # 5 of 200
    assert config.rebalance.epochs == 10
    assert config.method.encoder == "resnet8"
    assert plan.cells[0].published.optim.epochs == 200


@pytest.fixture(scope="module")
def two_columns(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("parts")
    write_manifest(tmp_path / "data" / "cifar10-lt", "cifar10-lt", classes=10, imbalance=100)
    return build_plan(request(tmp_path, columns=("cifar100-lt-100", "cifar10-lt-100"), seeds=2))


@settings(max_examples=15, deadline=None)
@given(parts=st.integers(1, 9) | st.just(70))
def test_every_job_is_in_one_part_with_those_that_it_needs(two_columns, parts):
    plan = two_columns
    divided = [plan.part(number, parts) for number in range(1, parts + 1)]
    folders = [job.folder for part in divided for job in part.jobs]
    assert sorted(folders) == sorted(job.folder for job in plan.jobs)
    for part in divided:
        own = [job.folder for job in part.jobs]
        for position, job in enumerate(part.jobs):
            assert {*job.after} <= {*own[:position]}
            assert job.first_stage is None or job.first_stage in own
        assert {job.folder for job in map(part.job_of, part.cells)} == {*own}
    assert sum(len(part.cells) for part in divided) == len(plan.cells)


def test_parts_have_about_the_same_number_of_epochs(two_columns):
    plan = two_columns
    epochs = []
    for number in (1, 2, 3):
        jobs = plan.part(number, 3).jobs
        trained = [job.config.optim.epochs for job in jobs if job.first_stage is None]
        epochs.append(sum(trained) + sum(job.config.rebalance.trained_epochs for job in jobs))
    assert max(epochs) - min(epochs) <= 220  # one run


def test_parts_do_not_depend_on_finished_runs(tmp_path):
    wanted = request(tmp_path, rows=("ce", "crt", "mixup", "iccl"))
    before = build_plan(wanted).part(1, 2)
    write_run(before.jobs[0].config)
    after = build_plan(wanted).part(1, 2)
    assert [run_key(job.config) for job in after.jobs] == [run_key(job.config) for job in before.jobs]
    assert names(after) == names(before)


@pytest.mark.parametrize("part", [(0, 2), (3, 2)])
def test_part_that_does_not_exist_is_refused(tmp_path, part):
    with pytest.raises(UserError, match="--part expects I/N"):
        build_plan(request(tmp_path, rows=("ce",))).part(*part)


def test_damaged_run_is_named_and_does_not_stop_the_plan(tmp_path):
    damaged = tmp_path / "runs" / "cifar100-lt" / "broken"
    damaged.mkdir(parents=True)
    (damaged / "config.toml").write_text("[data\n")
    plan = build_plan(request(tmp_path, rows=("ce",)))
    assert len(plan.jobs) == 1
    assert plan.problems[0].startswith(f"{damaged} is not used")


def test_names_do_not_depend_on_the_other_rows(tmp_path):
    whole = {job.cells[0].row.name: job.folder for job in build_plan(request(tmp_path)).jobs}
    for row in ("crt", "iccl", "bbn"):
        (job,) = build_plan(request(tmp_path, rows=(row,))).jobs
        assert job.folder == whole[row]


def test_run_that_another_process_trains_is_left_alone(tmp_path):
    wanted = request(tmp_path, rows=("ce", "crt"))
    run = write_run(build_plan(wanted).jobs[0].config, first=5, finished=False)
    with lock_run(run):
        plan = build_plan(wanted)
    ce, crt = job_of(plan, "ce"), job_of(plan, "crt")
    assert ce.running
    assert not ce.finished
    assert crt.after == (run,)


def test_other_dataset_has_all_rows_and_problems_of_those_that_do_not_work(tmp_path):
    causal = {"method": {"classifier": "causal"}}
    wanted = Request("table1", on="demo", seeds=1, epochs=4, project=tmp_path, data_root=tmp_path)
    plan = build_plan(wanted)
    assert [cell.row.name for cell in plan.cells] == [row.name for row in PaperTable.read("table1").rows]
    assert {cell.column.name for cell in plan.cells} == {"demo"}
    assert plan.problems == []
    assert all(cell.config.optim.epochs == 4 for cell in plan.cells)
    plan = build_plan(replace(wanted, settings=causal))
    assert [problem.partition(":")[0] for problem in plan.problems] == ["bbn on demo"]
    assert len(plan.cells) == len(plan.table.rows) - 1
