"""Rows of the study: the simulation of the paper, and what it does not look at.

A cell of the study is a scenario, a number of rows, a number of partitions and a replicate. All cells of a
replicate have one truth, and the rows of a smaller one are among those of a larger.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import daskmoe

N_EXPERTS = 4
N_FEATURES = 20
# Of all rows drawn, as in the paper.
HELD_OUT_SHARE = 0.2
# Standard deviation of what is added to the feature by which rows are sorted.
SORTING_NOISE = 0.3
# Experts of a partition of the scenario ``some``.
KNOWN_EXPERTS = 3
# The largest partition of ``uneven`` over its smallest.
UNEVEN_RATIO = 1_000
OUTLIERS, OUTLIER_SCALE = 0.02, 50.0

FAMILIES = {"outliers, t": "student_t", "counts": "poisson", "classes": "categorical"}
SCENARIOS = ("exchangeable", "sorted", "some", "uneven", "outliers", *FAMILIES)


class Cell(NamedTuple):
    """One draw of rows and the way they are partitioned."""

    scenario: str
    rows: int
    partitions: int
    replicate: int

    def __str__(self) -> str:
        return f"{self.scenario}, N = {self.rows:,}, M = {self.partitions:,}, replicate {self.replicate}"


class Draw(NamedTuple):
    """Rows of a cell, and what is known about them."""

    training: xr.Dataset
    held_out: xr.Dataset
    # The gaussian model of the rows, where the fitted family has it.
    truth: daskmoe.MixtureOfExperts | None
    # (held-out rows,): The expert that each came from.
    experts: NDArray[np.intp]
    # Options of every fit.
    family: str
    partitions: int | str
    n_local_experts: int | None


def seed_of(seed: int, *key: int) -> int:
    """The seed of a part of the study."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


def draw_cell(cell: Cell, seed: int) -> Draw:
    """The rows of a cell; the first of them are held out, whatever is done to the others."""
    n_held_out = round(cell.rows * HELD_OUT_SHARE / (1 - HELD_OUT_SHARE))
    data, truth = daskmoe.simulate(
        cell.rows + n_held_out,
        n_features=N_FEATURES,
        n_experts=N_EXPERTS,
        design="paper",
        random_state=seed_of(seed, cell.replicate),
    )
    rng = np.random.default_rng(seed_of(seed, cell.replicate, 1))
    experts = draw_experts(truth, data, rng)
    held_out, training = (data.isel(row=part) for part in (slice(0, n_held_out), slice(n_held_out, None)))
    drawn = Draw(training, held_out, truth, experts[:n_held_out], "gaussian", cell.partitions, None)
    if cell.scenario == "sorted":
        return drawn._replace(training=sort_rows(training, rng))
    if cell.scenario == "some":
        part = share_experts(experts[n_held_out:], cell.partitions, rng)
        partitioned = training.assign_coords(part=("row", part))
        return drawn._replace(training=partitioned, partitions="part", n_local_experts=KNOWN_EXPERTS)
    if cell.scenario == "uneven":
        shares = np.geomspace(1, UNEVEN_RATIO, cell.partitions)
        part = rng.choice(cell.partitions, cell.rows, p=shares / shares.sum())
        return drawn._replace(training=training.assign_coords(part=("row", part)), partitions="part")
    if cell.scenario.startswith("outliers"):
        far = rng.random(cell.rows) < OUTLIERS
        moved = training["y"] + far * OUTLIER_SCALE * rng.standard_normal(cell.rows)
        drawn = drawn._replace(training=training.assign(y=moved))
    elif cell.scenario != "exchangeable":
        target = {"counts": draw_counts, "classes": draw_classes}[cell.scenario](truth, data, experts, rng)
        data = data.assign(y=("row", target))
        held_out, training = data.isel(row=slice(0, n_held_out)), data.isel(row=slice(n_held_out, None))
        drawn = drawn._replace(training=training, held_out=held_out)
    if cell.scenario in FAMILIES:
        return drawn._replace(truth=None, family=FAMILIES[cell.scenario])
    return drawn


def draw_experts(
    truth: daskmoe.MixtureOfExperts, data: xr.Dataset, rng: np.random.Generator
) -> NDArray[np.intp]:
    """The expert of every row, from its responsibilities: given x and y, a draw of the one that made it."""
    weights = truth.responsibilities(data).transpose("expert", "row").values
    found: NDArray[np.intp] = np.argmax(np.log(weights.clip(1e-300)) + rng.gumbel(size=weights.shape), axis=0)
    return found


def sort_rows(rows: xr.Dataset, rng: np.random.Generator) -> xr.Dataset:
    """Rows in the order of their first feature and some noise: partitions cover different ranges."""
    noise = SORTING_NOISE * rng.standard_normal(rows.sizes["row"])
    return rows.isel(row=np.argsort(rows["X"].isel(feature=0).values + noise))


def share_experts(experts: NDArray[np.intp], n_partitions: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The partition of every row, where each holds rows of three experts and none of the others."""
    sets = list(itertools.combinations(range(N_EXPERTS), KNOWN_EXPERTS))
    part = np.empty(len(experts), dtype=np.intp)
    for expert in range(N_EXPERTS):
        holders = [m for m in range(n_partitions) if expert in sets[m % len(sets)]]
        rows = np.flatnonzero(experts == expert)
        part[rows] = rng.choice(holders, len(rows))
    return part


def draw_counts(
    truth: daskmoe.MixtureOfExperts, data: xr.Dataset, experts: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Counts whose logarithmic means are the experts' regressions, ten times as flat."""
    scale = np.log1p(np.arange(N_EXPERTS))[experts] + 0.1 * slopes_of(truth, data, experts)
    counts: NDArray[np.intp] = rng.poisson(np.exp(scale))
    return counts


def draw_classes(
    truth: daskmoe.MixtureOfExperts, data: xr.Dataset, experts: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[Any]:
    """Two classes whose log-odds are the experts' regressions, four times as flat."""
    odds = 0.25 * slopes_of(truth, data, experts)
    return np.where(rng.logistic(size=len(odds)) < odds, "yes", "no")


def slopes_of(
    truth: daskmoe.MixtureOfExperts, data: xr.Dataset, experts: NDArray[np.intp]
) -> NDArray[np.float64]:
    """What the features add to the linear predictor of each row's own expert."""
    all_experts = (data["X"] @ truth.params["coef"]).transpose("expert", "row").values
    own: NDArray[np.float64] = np.take_along_axis(all_experts, experts[None], axis=0)[0]
    return own
