"""Jobs: the network that guides M2m, and first stages that other runs have."""

import pytest

from fasticcl.paper.table import PaperRow, PaperTable
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.reproduce.planning.job_list import JobList
from tests.support.table_plans import CHECKSUM, write_manifest, write_run

COLUMN = PaperTable.read("table1").columns[0]


def jobs(tmp_path, *methods, seeds=1, settings=None):
    """Return the jobs of methods by (method, seed), with the runs of a project and shards."""
    shards = write_manifest(tmp_path / "data", imbalance=100)
    table = PaperTable.read("table1")
    cells = []
    for seed in range(seeds):
        for method in methods:
            row = PaperRow(
                method, method, method, {COLUMN.name: (None,)}, settings=(settings or {}).get(method, {})
            )
            config = table.config(row, COLUMN)
            engine = config.engine.model_copy(update={"project": tmp_path / "runs"})
            config = config.model_copy(update={"engine": engine})
            cells.append(Cell(row, COLUMN, config, config).on(shards).with_seed(seed))
    existing = ExistingRuns(tmp_path / "runs")
    listed = JobList(existing, {COLUMN.name: CHECKSUM[:12]}).jobs_of(cells)
    return {(job.cells[0].row.name, job.cells[0].seed): job for job in listed}


def test_m2m_uses_the_run_of_ce_with_its_seed(tmp_path):
    planned = jobs(tmp_path, "m2m", "ce", seeds=2)
    assert [*planned] == [("ce", 0), ("m2m", 0), ("ce", 1), ("m2m", 1)]
    for seed in (0, 1):
        ce, m2m = planned["ce", seed], planned["m2m", seed]
        assert m2m.config.method.seed_run == ce.folder
        assert m2m.after == (ce.folder,)
        assert m2m.group == ce.group


def test_settings_of_m2m_do_not_change_its_seed_run(tmp_path):
    planned = jobs(tmp_path, "ce", "m2m", settings={"m2m": {"method.m2m_beta": 0.9}})
    assert planned["m2m", 0].config.method.m2m_beta == 0.9
    assert planned["m2m", 0].config.method.seed_run == planned["ce", 0].folder


def test_m2m_uses_a_finished_run_of_the_project(tmp_path):
    ce = jobs(tmp_path, "ce")["ce", 0]
    run = write_run(ce.config)
    m2m = jobs(tmp_path, "m2m")["m2m", 0]
    assert m2m.config.method.seed_run == run
    assert m2m.after == ()


def test_m2m_alone_trains_its_own_seed_network(tmp_path):
    ce = jobs(tmp_path, "ce")["ce", 0]
    write_run(ce.config, first=3, finished=False)
    m2m = jobs(tmp_path, "m2m")["m2m", 0]
    assert m2m.config.method.seed_run is None
    assert m2m.after == ()


def test_run_of_one_stage_trains_the_first_stage_of_its_group(tmp_path):
    planned = jobs(tmp_path, "crt", "lws", "ce")
    assert next(iter(planned)) == ("ce", 0)
    assert {planned[name, 0].first_stage for name in ("crt", "lws")} == {planned["ce", 0].folder}


@pytest.mark.parametrize(
    ("methods", "leader"), [(("crt", "lws"), "crt"), (("crt", "lws", "tau-norm"), "tau-norm")]
)
def test_shortest_of_several_second_stages_trains_the_first_stage(tmp_path, methods, leader):
    planned = jobs(tmp_path, *methods)
    assert next(iter(planned)) == (leader, 0)
    assert planned[leader, 0].first_stage is None
    others = {planned[name, 0].first_stage for name in methods if name != leader}
    assert others == {planned[leader, 0].folder}


def test_run_that_has_started_trains_the_first_stage(tmp_path):
    crt = jobs(tmp_path, "crt")["crt", 0]
    run = write_run(crt.config, first=9, second=0, finished=False)
    planned = jobs(tmp_path, "ncm", "crt")
    assert planned["ncm", 0].first_stage == run
    assert planned["ncm", 0].after == (run,)


def test_run_in_its_second_stage_already_has_a_first_stage(tmp_path):
    crt = jobs(tmp_path, "crt")["crt", 0]
    run = write_run(crt.config, second=1, finished=False)
    planned = jobs(tmp_path, "crt", "lws")
    assert planned["crt", 0].run is not None
    assert planned["crt", 0].first_stage is None
    assert planned["lws", 0].first_stage == run
    assert planned["lws", 0].after == ()


def test_run_whose_shards_are_gone_gives_no_first_stage(tmp_path):
    crt = jobs(tmp_path, "crt")["crt", 0]
    data = crt.config.data.model_copy(update={"dir": tmp_path / "gone"})
    write_run(crt.config.model_copy(update={"data": data}))
    assert jobs(tmp_path, "crt", "lws")["lws", 0].first_stage is None


def test_checkpoint_that_was_deleted_gives_no_first_stage(tmp_path):
    run = write_run(jobs(tmp_path, "crt")["crt", 0].config)
    (run / "last.pt").unlink()
    planned = jobs(tmp_path, "crt", "lws")
    assert planned["crt", 0].finished
    assert planned["lws", 0].first_stage is None


def test_seeds_do_not_share_a_first_stage(tmp_path):
    planned = jobs(tmp_path, "ce", "crt", seeds=2)
    assert planned["crt", 1].first_stage == planned["ce", 1].folder
    assert planned["crt", 1].group != planned["crt", 0].group
