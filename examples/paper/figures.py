"""Figures and tables of the study, of nothing but its store.

python examples/paper/figures.py study.zarr --output figures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tables
import xarray as xr
from numpy.typing import NDArray
from store import read_group

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Colours that are told apart with every common colour vision: M. Okabe and K. Ito (2008).
COLOURS = {
    "global": "#333333",
    "reduction": "#D55E00",
    "middle": "#E69F00",
    "weighted": "#CC79A7",
    "auto": "#0072B2",
    "refined": "#009E73",
}
MARKERS = dict(zip(COLOURS, "sv^Dox", strict=True))
AXES = {"rows": "rows N", "partitions": "partitions M"}
# Metrics by panel: title, and whether the axis is logarithmic.
PANELS = {
    "divergence": ("divergence from the truth [nats]", True),
    "excess": ("held-out nats a row below the truth", True),
    "parameter_error": ("mean squared error of parameters", True),
    "prediction_error": ("relative prediction error", False),
    "rand_index": ("adjusted Rand index", False),
    "learning_seconds": ("learning time [s]", True),
}
DPI = 110


def draw_metrics(cells: xr.Dataset, along: str) -> Figure:
    """A panel a metric: boxes over the replicates by estimator, along N or M."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    values = np.unique(cells[along])
    names = [str(name) for name in cells["estimator"].values]
    for ax, (metric, (title, logarithmic)) in zip(axes.flat, PANELS.items(), strict=True):
        for position, name in enumerate(names):
            found = cells[metric].sel(estimator=name)
            boxes = [found.values[(cells[along] == value).values] for value in values]
            draw_boxes(ax, boxes, (position - (len(names) - 1) / 2) / (len(names) + 1), name)
        ax.set_xticks(range(len(values)), [f"{value:,}" for value in values])
        ax.set(title=title, xlabel=AXES[along], yscale="log" if logarithmic else "linear")
        ax.title.set_size("medium")
    handles = [Line2D([], [], color=COLOURS[n], marker=MARKERS[n], linestyle="none") for n in names]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def draw_boxes(ax: Axes, boxes: list[NDArray[np.float64]], shift: float, name: str) -> None:
    """A box at each whole number and, over it, the replicates."""
    colour = COLOURS[name]
    complete = [box[np.isfinite(box)] for box in boxes]
    line: dict[str, Any] = {"color": colour, "linewidth": 0.8}
    ax.boxplot(
        complete, positions=np.arange(len(boxes)) + shift, widths=0.1, showfliers=False, manage_ticks=False,
        boxprops=line, whiskerprops=line, capprops=line, medianprops={**line, "linewidth": 1.6},
    )  # fmt: skip
    for position, box in enumerate(complete):
        ax.plot(
            np.full(len(box), position + shift), box, MARKERS[name], color=colour, markersize=3.5, alpha=0.7
        )


def draw_objective(cells: xr.Dataset) -> Figure:
    """The reduction's objective by iteration, a line a cell."""
    figure, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    shades = {m: matplotlib.colormaps["viridis"](x) for m, x in shades_of(np.unique(cells["partitions"]))}
    shown: set[int] = set()
    cells = cells.sortby("partitions")
    for values, m in zip(cells["objective"].values, cells["partitions"].values.tolist(), strict=True):
        known = values[np.isfinite(values)]
        if len(known) < 2:
            continue
        ax.plot(np.arange(len(known)), known, color=shades[m], label=None if m in shown else f"M = {m}")
        shown.add(m)
    ax.set(xlabel="iteration", ylabel="transportation divergence [nats]", yscale="log")
    if shown:
        ax.legend(frameon=False)
    return figure


def shades_of(values: NDArray[np.int64]) -> list[tuple[int, float]]:
    """Where each value is on a scale of colours."""
    return list(zip(values.tolist(), np.linspace(0, 0.85, len(values)), strict=True))


def draw_consistency(cells: dict[str, xr.Dataset]) -> Figure:
    """The parameters' error along N at one M, and along M at one N, with slopes."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 5), layout="constrained", sharey=True)
    for ax, (along, found) in zip(axes, cells.items(), strict=True):
        for name in (str(name) for name in found["estimator"].values):
            error = found["parameter_error"].sel(estimator=name)
            if not np.isfinite(error).any():
                continue
            medians = error.groupby(along).median()
            slope = tables.slope_of(found, name, along)
            label = f"{name}: {slope}" if slope else name
            ax.plot(medians[along], medians, marker=MARKERS[name], color=COLOURS[name], label=label)
        ax.set(xscale="log", yscale="log", xlabel=AXES[along])
        ax.set_xticks(
            np.unique(found[along]), [f"{value:,}" for value in np.unique(found[along])], minor=False
        )
        ax.minorticks_off()
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False, fontsize="small",
            title="slope (95 % interval)", title_fontsize="small",
        )  # fmt: skip
    axes[0].set_ylabel("mean squared error of parameters")
    return figure


def draw_scenarios(cells: xr.Dataset) -> Figure:
    """How far each estimator's held-out log-likelihood is below the global fit's, by scenario."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    scenarios = list(dict.fromkeys(cells["scenario"].values.tolist()))
    best = cells["log_likelihood"].sel(estimator="global")
    for name in (str(name) for name in cells["estimator"].values if name != "global"):
        lost = (best - cells["log_likelihood"].sel(estimator=name)).values
        places = [scenarios.index(scenario) for scenario in cells["scenario"].values.tolist()]
        ax.plot(lost, places, MARKERS[name], color=COLOURS[name], label=name, alpha=0.8)
    ax.axvline(0, color="#BBBBBB", zorder=0)
    ax.set_xscale("symlog", linthresh=1e-5)
    ax.margins(x=0.08)
    ax.set_yticks(range(len(scenarios)), scenarios)
    ax.set(xlabel="held-out nats a row below the global fit", ylim=(len(scenarios) - 0.5, -0.5))
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def figures_of(cells: xr.Dataset) -> dict[str, Figure]:
    """Every figure by its name."""
    done = cells["log_likelihood"].notnull().any("cell")
    cells = cells.isel(estimator=done.values)
    cells["excess"] = cells["true_log_likelihood"] - cells["log_likelihood"]
    grid = {along: tables.cells_along(cells, along) for along in AXES}
    return {
        **{f"metrics-by-{along}": draw_metrics(found, along) for along, found in grid.items()},
        "objective": draw_objective(cells.isel(cell=(cells["scenario"] == "exchangeable").values)),
        "consistency": draw_consistency(grid),
        "scenarios": draw_scenarios(tables.beside_each_other(cells)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures and write the tables from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path, help="what study.py made")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder to make")
    options = parser.parse_args(arguments)
    cells = read_group(options.store, "simulated")
    if cells is None:
        raise SystemExit(f"{options.store}: expected the store of a study, found no finished cell")
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures_of(cells).items():
        figure.savefig(options.output / f"{name}.png", dpi=DPI)
        plt.close(figure)
    text = tables.all_tables(cells, *(read_group(options.store, group) for group in ("drawn", "real")))
    (options.output / "tables.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
