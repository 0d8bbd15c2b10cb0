"""Tables of the study: what it must reach, slopes, scenarios, drawn estimates, real sets."""

from __future__ import annotations

import numpy as np
import scipy.stats
import xarray as xr
from numpy.typing import NDArray

LEVEL = 0.95
# What others published for the Beijing stations: root mean squared and mean absolute error.
PUBLISHED = {
    "centralized": (17.98, 9.78),
    "optimal transport": (18.07, 9.86),
    "geometric median": (18.69, 10.12),
    "aligned average": (18.70, 10.09),
    "federated, 1 round": (17.81, 9.62),
    "federated, 5 to 20 rounds": (17.80, 9.61),
    "weighted average": (18.29, 10.28),
    "median": (17.96, 9.68),
}


def cells_along(cells: xr.Dataset, along: str) -> xr.Dataset:
    """The paper's cells with more than one value of N or M at the most frequent value of the other."""
    paper = cells.isel(cell=(cells["scenario"] == "exchangeable").values)
    other = {"rows": "partitions", "partitions": "rows"}[along]
    values = np.unique(paper[other])
    spread = [len(np.unique(paper[along].values[(paper[other] == value).values])) for value in values]
    # Of a whole grid, the largest.
    best = values[len(values) - 1 - int(np.argmax(spread[::-1]))]
    return paper.isel(cell=(paper[other] == best).values)


def beside_each_other(cells: xr.Dataset) -> xr.Dataset:
    """All scenarios, and the paper's cells of the same N and M or, where there are none others, all."""
    beside = cells.isel(cell=(cells["scenario"] != "exchangeable").values)
    if not beside.sizes["cell"]:
        return cells
    same = (cells["rows"] == beside["rows"][0]) & (cells["partitions"] == beside["partitions"][0])
    return cells.isel(cell=same.values)


def slope_of(cells: xr.Dataset, estimator: str, along: str) -> str:
    """The slope of the logarithmic error within replicates, with its interval; empty for too few cells."""
    error = np.log(cells["parameter_error"].sel(estimator=estimator).values)
    where, replicate = np.log(cells[along].values), cells["replicate"].values
    known = np.isfinite(error)
    error, where, replicate = error[known], where[known], replicate[known]
    groups = np.unique(replicate)
    # A replicate has a truth of its own, and with it a level of its own.
    for group in groups:
        own = replicate == group
        error[own] -= error[own].mean()
        where[own] -= where[own].mean()
    left = len(error) - len(groups) - 1
    if left < 1 or not where.any():
        return ""
    slope = (where @ error) / (where @ where)
    deviation = np.sqrt(((error - slope * where) ** 2).sum() / left / (where @ where))
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, left) * deviation
    return f"{slope:.2f} ({slope - half:.2f} to {slope + half:.2f})"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def number(value: float, digits: str = ".4f") -> str:
    """Empty where there is none."""
    return format(value, digits) if np.isfinite(value) else ""


def bars(cells: xr.Dataset) -> str:
    """What the study must reach, over all cells."""
    score = cells["log_likelihood"]
    paper = (cells["scenario"] == "exchangeable").values
    gain = (score.sel(estimator="auto") - score.sel(estimator="reduction")).values
    gap = (score.sel(estimator="refined") - score.sel(estimator="global")).values
    steps = np.diff(cells["objective"].values, axis=1)
    rows = [
        ["cells where auto is above reduction", f"{(gain > 0).sum()} of {np.isfinite(gain).sum()}"],
        ["refined above global, largest in size: the paper's cells", number(largest(gap[paper]), ".1e")],
        ["the same: other scenarios", number(largest(gap[~paper]), ".1e")],
        ["iterations of the reduction that rose", f"{(steps > 0).sum()} of {np.isfinite(steps).sum()}"],
    ]
    for (n, m), own in cells.isel(cell=paper).groupby(["rows", "partitions"]):
        seconds = own["learning_seconds"].median("cell")
        whole, auto = (float(seconds.sel(estimator=name)) for name in ("global", "auto"))
        text = f"{whole:.2f} s, {auto:.2f} s: {whole / auto:.1f} times"
        rows.append([f"learning time of global and auto, N = {n:,}, M = {m}", text])
    return markdown(["bar", "found"], rows)


def largest(gaps: NDArray[np.float64]) -> float:
    """The gap that is largest in size, with its sign; NaN for none."""
    known = gaps[np.isfinite(gaps)]
    return float(known[np.argmax(abs(known))]) if known.size else np.nan


def scenarios(cells: xr.Dataset) -> str:
    """Held-out nats a row of the global fit, how far others are below it, and kilobytes a partition."""
    chosen = beside_each_other(cells)
    names = [str(name) for name in chosen["estimator"].values if name != "global"]
    rows = []
    for scenario in dict.fromkeys(chosen["scenario"].values.tolist()):
        own = chosen.isel(cell=(chosen["scenario"] == scenario).values)
        score = own["log_likelihood"].median("cell")
        best = float(score.sel(estimator="global"))
        lost = [number(best - float(score.sel(estimator=name)), ".5f") for name in names]
        sent = (own["sent_bytes"] / own["partitions"]).median("cell") / 1e3
        told = [number(float(sent.sel(estimator=name)), ".0f") for name in ("auto", "refined")]
        rows.append([scenario, number(best), *lost, *told])
    return markdown(["scenario", "global", *names, "auto, kB", "refined, kB"], rows)


def slopes(cells: xr.Dataset) -> str:
    """Slopes of the logarithmic mean squared error."""
    rows = []
    for name in (str(name) for name in cells["estimator"].values):
        found = [slope_of(cells_along(cells, along), name, along) for along in ("rows", "partitions")]
        if any(found):
            rows.append([name, *found])
    return markdown(["estimator", "along N", "along M"], rows)


def drawn_estimates(found: xr.Dataset) -> str:
    """Divergence and seconds by number of local estimates and method."""
    rows = []
    for cell in range(found.sizes["cell"]):
        for method in found["method"].values:
            one = found.isel(cell=cell).sel({"method": method})
            scores = [number(float(one["divergence"])), number(float(one["seconds"]), ".1f")]
            rows.append([f"{int(one['partitions']):,}", str(method), *scores])
    return markdown(["local estimates", "method", "divergence from the truth", "seconds"], rows)


def real_sets(found: xr.Dataset) -> str:
    """Held-out scores of real sets, and the published ones."""
    rows = []
    for cell in range(found.sizes["cell"]):
        own = found.isel(cell=cell)
        for name in own["estimator"].values:
            one = own.sel(estimator=name)
            scores = [number(float(one[variable])) for variable in ("log_likelihood", "rmse", "mae")]
            rows.append([str(own["set"].values), f"{int(own['rows']):,}", str(name), *scores])
    published = [
        ["Beijing, published", "", name, "", f"{rmse}", f"{mae}"] for name, (rmse, mae) in PUBLISHED.items()
    ]
    return markdown(["set", "rows", "estimator", "nats a row", "RMSE", "MAE"], [*rows, *published])


def all_tables(cells: xr.Dataset, drawn: xr.Dataset | None, real: xr.Dataset | None) -> str:
    """Every table that the store has the figures for."""
    found = {"Bars": bars(cells), "Slopes": slopes(cells), "Scenarios": scenarios(cells)}
    if drawn is not None:
        found["Drawn estimates"] = drawn_estimates(drawn)
    if real is not None:
        found["Real sets"] = real_sets(real)
    return "\n".join(f"## {title}\n\n{table}\n" for title, table in found.items())
