"""What an estimator is judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from fitting import ESTIMATORS, Fitted, fit_estimators, objective_of
from numpy.typing import NDArray
from scenarios import Cell, Draw, draw_cell, seed_of

import daskmoe

# Variables of the store: description and units.
METRICS = {
    "divergence": ("transportation divergence from the truth", "nat"),
    "log_likelihood": ("held-out log-likelihood a row", "nat"),
    "parameter_error": ("mean squared error of the parameters, experts matched", "1"),
    "prediction_error": ("held-out squared error over that of the mean; of classes the share of errors", "1"),
    "rand_index": ("adjusted Rand index of the held-out rows' experts", "1"),
    "learning_seconds": ("processor time of the longest task of each kind, added up", "s"),
    "sent_bytes": ("sent by all partitions; of the global fit, size of the rows", "byte"),
}
# More iterations of majorization-minimization are not kept.
ITERATIONS = 100
# Rows at which transportation divergences are taken.
SUPPORT = 500


def judge_cell(cell: Cell, names: tuple[str, ...], seed: int, options: dict[str, Any]) -> xr.Dataset:
    """All figures of a cell, with a dimension ``cell`` of length one and ``estimator``."""
    draw = draw_cell(cell, seed)
    values = {metric: np.full((1, len(ESTIMATORS)), np.nan) for metric in METRICS}
    objective = np.full((1, ITERATIONS), np.nan)
    reference: daskmoe.MixtureOfExperts | None = None
    for name, fitted in fit_estimators(draw, names, seed_of(seed, cell.replicate, 2), options):
        if draw.truth is not None and name != "weighted":
            # The truth knows no rows to match over, nor do all aggregates; the first model does.
            matched = fitted.model.match(draw.truth if reference is None else reference)
            reference = matched if reference is None else reference
            fitted = fitted._replace(model=matched)
        for metric, value in judge(draw, name, fitted).items():
            values[metric][0, ESTIMATORS.index(name)] = value
        if name == "reduction":
            objective[0] = objective_of(fitted.model, ITERATIONS)
    told = np.nan
    if draw.truth is not None:
        told = draw.truth.log_likelihood(draw.held_out) / draw.held_out.sizes["row"]
    return label_cell(cell, values, objective, told)


def judge(draw: Draw, name: str, fitted: Fitted) -> dict[str, float]:
    """The metrics of one estimator that make sense for it."""
    model, n_rows = fitted.model, draw.held_out.sizes["row"]
    found = {
        "log_likelihood": model.log_likelihood(draw.held_out) / n_rows,
        "prediction_error": 1 - model.score(draw.held_out),
        "learning_seconds": fitted.seconds,
        "sent_bytes": fitted.sent_bytes,
    }
    if draw.truth is not None:
        support = draw.held_out.isel(row=slice(0, SUPPORT))
        found["divergence"] = daskmoe.transportation_divergence(draw.truth, model, support, kind="exact")
        if name != "weighted":
            found["parameter_error"] = parameter_error(model, draw.truth)
    if name != "weighted":
        assigned = model.assign_experts(draw.held_out).values.astype(np.intp)
        found["rand_index"] = adjusted_rand_index(draw.experts, assigned)
    return found


def parameter_error(model: daskmoe.MixtureOfExperts, truth: daskmoe.MixtureOfExperts) -> float:
    """Mean squared error of all parameters but the zeros of the reference expert's gate."""
    squares = []
    for name, values in truth.params.data_vars.items():
        error = values.values - model.params[name].values
        squares.append(np.ravel(error[:-1] if str(name).startswith("gate") else error) ** 2)
    return float(np.concatenate(squares).mean())


def adjusted_rand_index(first: NDArray[np.intp], second: NDArray[np.intp]) -> float:
    """Agreement of two partitions of the same rows, by pairs: 1 if the same, 0 on average by chance."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected, most = rows * columns / pairs(table.sum(keepdims=True)), (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def label_cell(
    cell: Cell, values: dict[str, NDArray[np.float64]], objective: NDArray[np.float64], told: float
) -> xr.Dataset:
    """The figures as they are appended to the store."""
    data = {
        name: (("cell", "estimator"), values[name], {"long_name": text, "units": units})
        for name, (text, units) in METRICS.items()
    }
    mm = {"long_name": "transportation divergence of the reduction by iteration", "units": "nat"}
    truth = {"long_name": "held-out log-likelihood a row of the truth", "units": "nat"}
    return xr.Dataset(
        {
            **data,
            "objective": (("cell", "iteration"), objective, mm),
            "true_log_likelihood": ("cell", np.array([told]), truth),
        },
        coords={
            "estimator": np.array(ESTIMATORS, dtype="<U16"),
            "scenario": ("cell", np.array([cell.scenario], dtype="<U16")),
            "rows": ("cell", np.array([cell.rows])),
            "partitions": ("cell", np.array([cell.partitions])),
            "replicate": ("cell", np.array([cell.replicate])),
        },
    )
