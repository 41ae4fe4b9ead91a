"""The run folder: ``<project>/<dataset>/<name>/`` with configuration, metrics, checkpoints and weights."""

import errno
import os
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fasticcl.config import Config
from fasticcl.engine.run.checkpoint import LAST, PREVIOUS, Checkpoint, load_newest
from fasticcl.engine.run.lock import is_locked
from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.resolve import resolve
from fasticcl.system.launch import nproc_option

CONFIG = "config.toml"
ENVIRONMENT = "environment.jsonl"
CENTROIDS = "centroids.npy"
WEIGHTS = "model.safetensors"
_DEV_RUN = "trial-"  # prefix of default names with --fast-dev-run
_MAX_NEARBY = 5


@dataclass(frozen=True)
class RunFolder:
    """The folder and the configuration of a run. Only `create` writes to it."""

    path: Path
    config: Config
    """The resolved configuration, not shortened by ``fast_dev_run``."""

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Create the folder of a new run with its ``config.toml``.

        Raises:
            UserError: the name is taken, or the folder cannot be created.
        """
        runs = config.engine.project / config.data.dataset
        name = config.engine.name or default_name(runs, config)
        path = runs / name
        try:
            runs.mkdir(parents=True, exist_ok=True)
            # The folder is renamed into place, so a run folder always contains its configuration.
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=runs) as temporary:
                folder = Path(temporary) / name
                folder.mkdir()
                write_file(folder / CONFIG, config.to_toml().encode())
                os.rename(folder, path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and path.exists():
                raise UserError(
                    f"The run {path} already exists. Choose another --name, or continue it with --resume."
                ) from None
            raise UserError(
                f"Cannot create the run folder {path}: {error.strerror}. Choose another --project."
            ) from None
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run.

        Raises:
            UserError: the folder contains no run.
        """
        if not (path / CONFIG).is_file():
            raise UserError(f"{path} is not a run folder: it has no {CONFIG}.{nearby_runs(path)}")
        named = path if path.name not in ("", "..") else path.resolve()
        return cls(named, resolve(file=path / CONFIG))

    @classmethod
    def newest(cls, project: Path, dataset: str, name: str | None) -> "RunFolder":
        """Open the named run or, without a name, the most recently saved one.

        Runs with ``--fast-dev-run`` are used only if there are no others.

        Raises:
            UserError: there is no such run.
        """
        runs = project / dataset
        if name:
            return cls.open(runs / name)
        saved = [path for name in (LAST, CONFIG) for path in runs.glob(f"*/{name}")]
        if not saved:
            raise UserError(f"There is no run to resume in {runs}. Start one without --resume.")
        full = [path for path in saved if not path.parent.name.startswith(_DEV_RUN)]
        return cls.open(max(full or saved, key=lambda path: path.stat().st_mtime_ns).parent)

    def checkpoint(
        self, data_sha256: str, warn: Callable[[str], None] = lambda _: None
    ) -> tuple[Checkpoint, Path] | None:
        """Return the newest readable checkpoint with its path, or None before the first.

        Args:
            data_sha256: checksum of the training data.
            warn: called with a message if ``last.pt`` is damaged and ``previous.pt`` replaces it.

        Raises:
            UserError: every checkpoint is damaged, or the training data has changed.
        """
        newest = load_newest(self.path, warn)
        if newest and newest[0].data_sha256 != data_sha256:
            raise UserError(
                f"The shards in {self.config.data.dir} are not those that {self.path} was trained on. "
                "Restore them, or start a new run."
            )
        return newest

    @property
    def finished(self) -> bool:
        """True if all files are written. Deleting ``previous.pt`` is the last action of a run."""
        return (self.path / WEIGHTS).is_file() and not (self.path / PREVIOUS).exists()

    @property
    def project(self) -> Path:
        """The folder that contains the runs of all datasets.

        It is the configured one, unless the run was moved to another folder that is named after its dataset.
        """
        dataset, project = self.config.data.dataset, self.config.engine.project
        runs = self.path.absolute().parent
        moved = runs.name == dataset and runs != (project / dataset).absolute()
        return runs.parent if moved else project

    @property
    def how_to_finish(self) -> str:
        """A sentence that explains how to finish an unfinished run."""
        if is_locked(self.path):
            return "Wait until the process that trains it ends."
        return f"Continue it with: {self.resume_command}"

    @property
    def resume_command(self) -> str:
        """The command that continues the run."""
        project = [] if self.project == Path("runs") else ["--project", str(self.project)]
        words = ["fasticcl", "train", self.config.data.dataset, *project, "--name", self.path.name]
        return shlex.join([*words, *nproc_option(), "--resume"])


def default_name(folder: Path, config: Config) -> str:
    """Return the name of a run that has none: its method and the smallest number that is free in a folder."""
    return free_name(folder, _DEV_RUN * config.engine.fast_dev_run + config.method.name)


def free_name(folder: Path, stem: str) -> str:
    """Return ``stem-N`` with the smallest N from 1 that does not exist in a folder."""
    number = 1
    while (folder / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def nearby_runs(path: Path, file: str = ENVIRONMENT) -> str:
    """Return a sentence that lists the runs nearest to a path, newest first, or an empty string.

    The search covers the path itself, its parent, the other datasets of its project and ``runs``.

    Args:
        path: a path without a run.
        file: a file that the runs must contain. Its modification time determines their order.
    """
    searches = [
        (path, "*"),
        (path, "*/*"),
        (path.parent, "*"),
        (path.parent.parent, "*/*"),
        (Path("runs"), "*/*"),
    ]
    matches = ([*folder.glob(f"{pattern}/{file}")] for folder, pattern in searches)
    nearest = next(filter(None, matches), [])
    nearest.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    names = [shlex.quote(str(path.parent)) for path in nearest[:_MAX_NEARBY]]
    return f" Nearby runs, newest first: {', '.join(names)}." if names else ""
