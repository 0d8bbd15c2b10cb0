"""What the diagnostics of a model say of its fit, those of models saved by daskmoe 0.1.0 too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from daskmoe.numerics.combine.choice import PILOT
from daskmoe.rows.names import (
    N_PARAMETERS,
    OUTCOME,
    STATUS,
    TRAINING_ENTROPY,
    TRAINING_LOG_LIKELIHOOD,
    Outcome,
)


class Training(NamedTuple):
    """What a model knows of the rows it was fitted to; None for what it does not."""

    # At the model's own parameters, rows weighted as in the fit.
    log_likelihood: float | None
    # Sum over rows of the entropy of their responsibilities, in nats.
    entropy: float | None
    # Free parameters that the rows can tell apart.
    n_parameters: int | None


def outcomes_of(diagnostics: xr.Dataset | None) -> list[Outcome]:
    """How every partition ended, in their order; empty where that is not known."""
    if diagnostics is None:
        return []
    if OUTCOME in diagnostics:
        return [Outcome(text) for text in diagnostics[OUTCOME].values.tolist()]
    if STATUS not in diagnostics:
        return []
    # Version 0.1.0 stored the text alone, which is one of these or the reason why a partition was left out.
    known = {"ok": Outcome.FITTED, "not converged": Outcome.NOT_CONVERGED}
    return [known.get(text, Outcome.LEFT_OUT) for text in diagnostics[STATUS].values.tolist()]


def weight_of(diagnostics: xr.Dataset | None) -> float | None:
    """The sum of the row weights of the last fit, where a model does not hold it itself."""
    found = xr.Dataset() if diagnostics is None else diagnostics
    return next((float(found[name].sum()) for name in ("refined_weight", "weight") if name in found), None)


def training_of(diagnostics: xr.Dataset | None) -> Training:
    """What the last fit or refinement left of its rows."""
    found = xr.Dataset() if diagnostics is None else diagnostics
    value, entropy, size = (
        float(found[name]) if name in found else None
        for name in (TRAINING_LOG_LIKELIHOOD, TRAINING_ENTROPY, N_PARAMETERS)
    )
    if value is None:
        value = _told_by_0_1_0(found)
    return Training(value, entropy, None if size is None else int(size))


def _told_by_0_1_0(found: xr.Dataset) -> float | None:
    """The training log-likelihood where it is that of the last accepted round, or of the only local fit."""
    if "round_log_likelihood" in found:
        return float(found["round_log_likelihood"].values[found["round_accepted"].values == 1][-1])
    if found.attrs.get("aggregation") == "local" and "log_likelihood" in found:
        return float(found["log_likelihood"].sum())
    return None


def distances_of_rivals(diagnostics: xr.Dataset) -> list[float]:
    """How far below the best shared start each other one ended, in nats a row, from the nearest on."""
    if "candidate_objective" not in diagnostics:
        return []
    names, scores = (
        diagnostics["candidate"].values.tolist(),
        diagnostics["candidate_objective"].values.tolist(),
    )
    best_of_start: dict[str, float] = {}
    first: list[float] = []
    for name, score in zip(names, scores, strict=True):
        start = name.rsplit(" ", 1)[-1]
        if start.isdecimal():
            best_of_start[start] = max(score, best_of_start.get(start, -np.inf))
        elif name in ("one-shot", "narrow one-shot", "half step", PILOT):
            first.append(score)
    if not first or not best_of_start:
        return []
    ends = [max(first), *best_of_start.values()]
    return sorted(max(ends) - end for end in ends)[1:]
