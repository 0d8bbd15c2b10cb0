"""What a finished model is not to be trusted for: spikes, worse than one line, predictions far off."""

from __future__ import annotations

import logging
import math
from itertools import starmap
from typing import Any, Final

import xarray as xr

from daskmoe.api.caller import warn
from daskmoe.errors import FitWarning
from daskmoe.model import MixtureOfExperts
from daskmoe.model.floor import AtFloor, experts_at_floor
from daskmoe.model.history import distances_of_rivals, training_of
from daskmoe.model.labels import expert_names
from daskmoe.model.moments import moments_from
from daskmoe.numerics.base.policies import SOUNDNESS
from daskmoe.numerics.combine.choice import LEAST_SQUARES
from daskmoe.rows.names import (
    FROM_SAMPLE,
    OUTPUT,
    PREDICTION_PARTITION,
    PREDICTION_RANGE,
    PREDICTION_ROW,
    TARGET_RANGE,
)

logger = logging.getLogger(__name__)

_SIDES: Final = ("lowest", "highest")


def report_soundness(model: MixtureOfExperts) -> None:
    """Warn of a model that a fit or a refinement ended in.

    Parameters
    ----------
    model : MixtureOfExperts
        As computed.

    Warns
    -----
    FitWarning
        At the line that called the package.
    """
    family = model.densities
    if spikes := experts_at_floor(model.mixture, family, model.diagnostics, model.options):
        warn(_of_spikes(spikes, model), FitWarning)
    found = model.diagnostics
    if found is None or model.n_experts == 1:
        return
    # Experts that the caller holds wider than the rows are lose against a line that is not held.
    if not (spikes and model.options.get("min_scale") is not None):
        _report_least_squares(model, found)
    _report_range(found, model.target, model.rows.outputs)


def report_rivals(found: xr.Dataset) -> None:
    """Log the shared starts that end close to a model, and a model that is no better than what is known.

    Parameters
    ----------
    found : xr.Dataset
        Diagnostics of a fit that compared candidates.
    """
    distances = distances_of_rivals(found)
    close = [distance for distance in distances if distance <= SOUNDNESS.rival]
    if close:
        logger.info(
            "%d of %d other shared starts end within %.0e nats a row of the best, the nearest %.1e below it: "
            "diagnostics['candidate_objective'] has them",
            len(close), len(distances), SOUNDNESS.rival, close[0],
        )  # fmt: skip


def _of_spikes(spikes: list[AtFloor], model: MixtureOfExperts) -> str:
    """One sentence an expert, and what to do."""
    said, called = [], expert_names(model.params)
    for spike in spikes:
        share = "" if spike.share is None else f" ({spike.share:.1%} of the rows)"
        where = "a line" if spike.value is None else f"the value {_shown(spike.value, spike.deviation)}"
        said.append(
            f"{called[spike.expert]}{share} sits on {where} (standard deviation {spike.deviation:.2g})"
        )
    what = "Repeated values of the target are"
    if any(spike.value is None for spike in spikes):
        what = "Values of the target that lie on a line exactly, as of rows as few as the features, are"
    advice = (
        "Set min_scale= to the precision of the target"
        if model.options.get("min_scale") is None
        else "Set a larger min_scale=, if the target is less precise"
    )
    return (
        f"{'; '.join(said)}: as narrow as the variance floor lets it be. {what} a point mass, not a density: "
        "log_likelihood, aic, bic and icl say little of such a model. "
        f"{advice}, or model the repeated values apart."
    )


def _shown(value: float, deviation: float) -> str:
    """A value to the digits that its expert's own width leaves it."""
    return f"{round(value, -math.floor(math.log10(deviation))) + 0.0:.15g}"


def _report_least_squares(model: MixtureOfExperts, found: xr.Dataset) -> None:
    """Of an estimator below one regression line, or that is one, or the start it should have improved."""
    chosen = found.attrs.get("aggregation")
    refined = bool(model.options.get("refine"))
    if model.options.get("aggregation") == "auto" and not refined:
        what = None
        if chosen == LEAST_SQUARES:
            what = "least squares, one regression line"
        elif found.attrs.get(FROM_SAMPLE):
            what = "the shared start, fitted to a sample of the rows"
        if what is not None:
            warn(
                f"The model is {what}: no estimate of the partitions has a higher objective on all rows. "
                "Go on with daskmoe.refine (refine=, --refine), or use fewer experts.",
                FitWarning,
            )
            return
    below = _below_least_squares(model, found)
    if below is None or below <= SOUNDNESS.worse:
        return
    if refined:
        said = "The refined model"
        short = not found.attrs.get("refinement_converged")
        advice = "Go on with daskmoe.refine" if short else "Start from a fit with another random_state"
    else:
        said, advice = (
            f"The estimate {chosen!r}",
            "Use aggregation='auto', or go on with daskmoe.refine (refine=)",
        )
    warn(f"{said} is {below:.3g} nats a row below least squares, one regression line. {advice}.", FitWarning)


def _below_least_squares(model: MixtureOfExperts, found: xr.Dataset) -> float | None:
    """In nats a row: on the model's rows where it knows, else by the scores on the support."""
    own, known = training_of(found).log_likelihood, moments_from(found, model.rows.columns)
    if own is not None and known is not None:
        single = model.densities.log_likelihood_from(known)
        return None if single is None else (single - own) / known.weight
    if "candidate_objective" not in found or LEAST_SQUARES not in found["candidate"].values:
        return None
    scores = dict(zip(found["candidate"].values.tolist(), found["candidate_objective"].values, strict=True))
    chosen = scores.get(found.attrs.get("aggregation"))
    return None if chosen is None else float(scores[LEAST_SQUARES] - chosen)


def _report_range(found: xr.Dataset, target: str, outputs: tuple[Any, ...]) -> None:
    """Of predictions that lie outside the range of the target, or of an output, by more than its width."""
    if PREDICTION_RANGE not in found:
        return
    each = [(repr(target), found)]
    if outputs:
        each = [(f"output {name!r} of {target!r}", found.isel({OUTPUT: o})) for o, name in enumerate(outputs)]
    said = [far for far in starmap(_far_outside, each) if far]
    if said:
        warn(
            f"The model predicts {', and '.join(said)} (of the complete rows, from 0). Look at the features "
            "there, or go on with daskmoe.refine (refine=, --refine).",
            FitWarning,
        )


def _far_outside(what: str, found: xr.Dataset) -> str | None:
    """Where the lowest and the highest prediction are, if they are far outside the range."""
    predicted, (low, high) = found[PREDICTION_RANGE].values, found[TARGET_RANGE].values
    if not high > low:
        # A constant is no range.
        return None
    beyond = (high - low) * SOUNDNESS.widths
    far = (predicted[0] < low - beyond, predicted[1] > high + beyond)
    rows = [
        f"{_SIDES[side]} {predicted[side]:.4g} at row {int(found[PREDICTION_ROW][side])} of "
        f"{found[PREDICTION_PARTITION].values[side]!s}"
        for side in (0, 1)
        if far[side]
    ]
    if not rows:
        return None
    return f"{what} far outside its range, {low:.4g} to {high:.4g}: {'; '.join(rows)}"
