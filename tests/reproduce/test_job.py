"""Jobs and their folders."""

from pathlib import Path

from fasticcl.reproduce.job import Job
from fasticcl.resolve import configure


def test_new_job_has_the_folder_that_training_will_create():
    job = Job(configure("demo", project="p", name="iccl-s0"), cells=())
    assert job.folder == Path("p/demo/iccl-s0")
    assert not job.finished
    assert not job.running
