"""L2 norms of classifier weights and centroids per class, as in Figure 3 of the paper."""

from collections.abc import Iterator
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
from fasticcl.report.plotting import COLORS, plot_curve, styled_figure
from fasticcl.reproduce.result import TableResult

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


def norms(result: TableResult) -> tuple[list[tuple[str, Figure, str]], list[str]]:
    """Return the name, the figure and the caption of each plot, and the problems with reading weights.

    There is one plot for each column and stage. Each method is shown with its first finished run.
    """
    figures, problems = [], []
    for column in result.columns:
        runs: dict[str, tuple[int, ClassNorms]] = {}
        for row in result.rows:
            cell = result.cells.get((row.name, column.name))
            run = next((run for run in cell.runs if run.state == "finished"), None) if cell else None
            if cell and run and _label(cell.config.method.name) not in runs:
                try:
                    runs[_label(cell.config.method.name)] = run.seed, ClassNorms.read(run.folder)
                except UserError as error:
                    problems.append(str(error))
        if runs:
            name = f"{result.table.name}-{column.name}"
            figures += _figures(name, column.title, runs)
    return figures, problems


def _figures(
    name: str, title: str, runs: dict[str, tuple[int, ClassNorms]]
) -> Iterator[tuple[str, Figure, str]]:
    shown = [values for _, each in runs.values() for values in vars(each).values() if values is not None]
    top = 1.05 * max(float(values.max()) for values in shown)
    for stage, heading in _TITLES.items():
        with styled_figure(heading, "class rank by training images (1 = largest)", "L2 norm") as (
            figure,
            axes,
        ):
            for i, (method, (_, each)) in enumerate(runs.items()):
                values = each.before if stage == "before" else each.after
                if values is not None:
                    plot_curve(axes, values, color=COLORS[i % len(COLORS)], label=f"{method} classifier")
                if each.centroids is not None:
                    plot_curve(axes, each.centroids, color=COLORS[2], label=f"{method} centroids")
            axes.set_ylim(0, top)
        seeds = ", ".join(f"{method} seed {seed}" for method, (seed, _) in runs.items())
        caption = (
            f"{title}: L2 norm of the classifier weights of each class, and of the class centroids, from the "
            f"class with the most training images to the one with the fewest ({seeds})."
        )
        yield f"{name}-{stage}", figure, caption


def _label(method: str) -> str:
    return {"iccl": "ICCL", "crt": "cRT"}.get(method, method)
