"""L2 norms of classifier weights and centroids per class, as in Figure 3 of the paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fasticcl.engine.run.checkpoint import load_newest
from fasticcl.engine.run.folder import CENTROIDS
from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.paper.table import PaperColumn
from fasticcl.report.plotting import COLORS, plot_curve, styled_figure
from fasticcl.reproduce.result import TableResult
from fasticcl.reproduce.table.run_result import RunResult

_COLORS = (COLORS[0], COLORS[1], *COLORS[3:])  # COLORS[2] is that of centroids
_TITLES = {"before": "After representation learning", "after": "After classifier balancing"}


@dataclass(frozen=True)
class ClassNorms:
    """Norms of a finished run for K classes, from the largest class to the smallest."""

    before: NDArray[np.float64] | None
    """[K] norms of the classifier weights before the second stage. None: the run has none."""
    after: NDArray[np.float64]
    """[K] norms of the classifier weights at the end of the run."""
    centroids: NDArray[np.float64] | None
    """[K] norms of the centroids. None: the method has none."""

    @classmethod
    def read(cls, folder: Path) -> "ClassNorms":
        """Read the saved weights of a run.

        Raises:
            UserError: the weights are missing or damaged.
        """
        model = load_model(folder)
        order = np.argsort(-np.array(model.description.train_counts), kind="stable")
        newest = load_newest(folder, lambda _: None)
        teacher = newest[0].teacher if newest else None
        before = Network.restore(model.description.encoder, teacher) if teacher else None
        centroids = folder / CENTROIDS
        return cls(
            _weight_norms(before)[order] if before else None,
            _weight_norms(model.network)[order],
            np.linalg.norm(np.load(centroids, allow_pickle=False), axis=1)[order]
            if centroids.is_file()
            else None,
        )


def _weight_norms(network: Network) -> NDArray[np.float64]:
    return network.classifier.weight.detach().double().norm(dim=1).numpy()


@dataclass(frozen=True)
class MethodNorms:
    """The norms of the first finished run of a method."""

    column: PaperColumn
    method: str
    run: RunResult
    norms: ClassNorms


def read_norms(result: TableResult) -> tuple[list[MethodNorms], list[str]]:
    """Return the norms of the first finished run of each column and method, and the reading problems."""
    found: dict[tuple[str, str], MethodNorms] = {}
    problems: dict[str, None] = {}
    for cell in result.cells.values():
        key = cell.column.name, cell.config.method.name
        run = next((run for run in cell.runs if run.state == "finished"), None)
        if run and key not in found:
            try:
                norms = ClassNorms.read(run.folder)
            except UserError as error:
                problems[str(error)] = None
            else:
                found[key] = MethodNorms(cell.column, _label(cell.config.method.name), run, norms)
    return [*found.values()], [*problems]


def norm_figures(name: str, methods: Sequence[MethodNorms]) -> Iterator[tuple[str, Figure, str]]:
    """Yield the name, the figure and the caption of each plot, one for each column and stage.

    Args:
        name: name of the paper's figure.
        methods: the norms of each column and method.
    """
    for column in {each.column.name: each.column for each in methods}.values():
        members = [each for each in methods if each.column.name == column.name]
        shown = [values for each in members for values in vars(each.norms).values() if values is not None]
        top = 1.05 * max(float(values.max()) for values in shown)
        seeds = ", ".join(f"{each.method} seed {each.run.seed}" for each in members)
        caption = (
            f"{column.title}: L2 norm of the classifier weights of each class, and of the class centroids, "
            f"from the class with the most training images to the one with the fewest ({seeds})."
        )
        for stage, heading in _TITLES.items():
            yield f"{name}-{column.name}-{stage}", _plot(stage, heading, members, top), caption


def _plot(stage: str, heading: str, members: Sequence[MethodNorms], top: float) -> Figure:
    xlabel = "class rank by training images (1 = largest)"
    with styled_figure(heading, xlabel, "L2 norm") as (figure, axes):
        for i, each in enumerate(members):
            values = each.norms.before if stage == "before" else each.norms.after
            if values is not None:
                plot_curve(axes, values, color=_COLORS[i % len(_COLORS)], label=f"{each.method} classifier")
            if each.norms.centroids is not None:
                plot_curve(axes, each.norms.centroids, color=COLORS[2], label=f"{each.method} centroids")
        axes.set_ylim(0, top)
    return figure


def _label(method: str) -> str:
    return {"iccl": "ICCL", "crt": "cRT"}.get(method, method)
