"""What a finished fit has to say on the client: workers log for themselves, elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.api.caller import warn
from daskmoe.api.columns import report_columns
from daskmoe.api.soundness import report_rivals, report_soundness
from daskmoe.engine.outcomes import Ending
from daskmoe.engine.planning import say_missing_chunks
from daskmoe.engine.request import FitRequest
from daskmoe.errors import ConvergenceWarning, DataWarning, IdentificationWarning
from daskmoe.model import MixtureOfExperts
from daskmoe.model.history import outcomes_of
from daskmoe.model.moments import moments_from
from daskmoe.numerics.base.hulls import unidentified
from daskmoe.numerics.base.parameters import Moments
from daskmoe.numerics.base.policies import REFINEMENT
from daskmoe.numerics.combine.choice import FROM_PILOT
from daskmoe.numerics.combine.registry import AGGREGATORS
from daskmoe.rows.names import (
    ABSENT_ROWS,
    FEATURE,
    LEFT,
    LEFT_IN,
    PARTITION,
    STATUS,
    TAKEN_WHOLE,
    UNIDENTIFIED,
    UNKNOWN_SUPPORT,
    Outcome,
)
from daskmoe.rows.variables import listed

logger = logging.getLogger(__name__)

_NAMED: Final = 5


def report_data(request: FitRequest) -> None:
    """Warn of chunks that are not in the store of a request.

    Parameters
    ----------
    request : FitRequest

    Warns
    -----
    DataWarning
        At the line that called the package.
    """
    if request.missing_chunks:
        warn(say_missing_chunks(request.missing_chunks), DataWarning)


def report_change(request: FitRequest) -> None:
    """Warn of a store that was written while it was read.

    Parameters
    ----------
    request : FitRequest

    Warns
    -----
    DataWarning
        At the line that called the package.
    """
    warn(
        f"The store {request.source!r} changed while it was read: metadata or chunks of "
        f"{listed(sorted(request.used))} are not those of the start. The model may be made of old and new "
        "rows, and of fill values where chunks were away: fit it again.",
        DataWarning,
    )


def report_fit(model: MixtureOfExperts, endings: Sequence[Ending] = ()) -> None:
    """Log what a fit left out; warn of one that did not converge, or holds zeros that are no estimates.

    Parameters
    ----------
    model : MixtureOfExperts
        As computed; a lazy fit is reported by whoever computes it.
    endings : sequence of Ending
        How its partitions ended.

    Warns
    -----
    ConvergenceWarning, IdentificationWarning, FitWarning
        At the line that called the package.
    """
    found = model.diagnostics
    if found is None:
        return
    if kept := sum(ending.kept for ending in endings):
        logger.info("%d of %d partitions were taken from their checkpoints", kept, len(endings))
    if unkept := [ending.unkept for ending in endings if ending.unkept]:
        logger.warning(
            "%d of %d partitions could not be kept in the checkpoint, and would be fitted again: %s",
            len(unkept), len(endings), unkept[0],
        )  # fmt: skip
    if "dropped_rows" in found:
        _report_rows(found, skipped=model.options.get("on_error") == "skip")
    if ABSENT_ROWS in found:
        absent, others = int(found[ABSENT_ROWS].sum()), int((found["rows"] + found["dropped_rows"]).sum())
        logger.info("%d of %d rows are %s", absent, absent + others, _absence(model))
    if "weight" in found:
        _report_weight(found, model.params)
    reasons = [f"{label} ({status})" for label, status in left_out(model).items()]
    if reasons:
        more = f"; and {len(reasons) - _NAMED} more, see diagnostics['status']" if reasons[_NAMED:] else ""
        logger.warning(
            "%d of %d partitions were left out: %s%s",
            len(reasons), found.sizes[PARTITION], "; ".join(reasons[:_NAMED]), more,
        )  # fmt: skip
    short = outcomes_of(found).count(Outcome.NOT_CONVERGED)
    if short and found.sizes[PARTITION] == 1:
        warn(
            f"The fit did not converge in {int(found['passes'][0])} passes: the model may be short of a "
            "maximum of the likelihood. Go on with daskmoe.refine(model, data, rounds='converged').",
            ConvergenceWarning,
        )
    elif short:
        logger.warning(
            "%d of %d local fits did not converge, as happens with more experts than the rows can tell "
            "apart; diagnostics['status'] says which",
            short,
            found.sizes[PARTITION],
        )
    report_identification(model)
    chosen = found.attrs.get("aggregation")
    # Others are found without iterating; "converged" is then that of a candidate that was not chosen.
    iterated = chosen in AGGREGATORS and AGGREGATORS[chosen].iterates
    if iterated and not found.attrs["converged"]:
        warn(
            f"The aggregation {chosen!r} did not converge in {found.sizes['iteration']} iterations. "
            "Refine the model (daskmoe.refine, --refine) or use another aggregation.",
            ConvergenceWarning,
        )
    report_rivals(found)
    report_columns(model)
    if not model.options.get("refine"):
        report_soundness(model)


def report_identification(model: MixtureOfExperts) -> None:
    """Warn of coefficients that are zero for want of rows that say something of them.

    Parameters
    ----------
    model : MixtureOfExperts
        As computed.

    Warns
    -----
    IdentificationWarning
        At the line that called the package.
    """
    found = model.diagnostics
    if (moments := moments_from(found, model.rows.columns)) is not None and unidentified(moments).any():
        logger.warning(
            "%s: constant in all rows, or collinear there: the coefficients are those of least norm, zero "
            "where constant, and no estimates one by one. Drop constant features, and one of each collinear "
            "set, as one of the dummies of a category",
            _listed(np.array(model.rows.feature_labels)[unidentified(moments)]),
        )
    if silent := _silent(model, moments):
        warn(
            f"{_listed(np.array(silent))}: the coefficients are zero and no estimates. The sample that all "
            "partitions start from has too few rows that vary there, and what the partitions say of it has "
            "no maximum. Go on with daskmoe.refine (refine=, --refine).",
            IdentificationWarning,
        )
    if found is None or UNIDENTIFIED not in found:
        return
    whole = found[UNIDENTIFIED].isel({PARTITION: found[TAKEN_WHOLE].values > 0})
    columns = whole[FEATURE].values[whole.any(PARTITION).values]
    if whole.size:
        warn(
            f"The estimate {found.attrs['aggregation']!r} takes local estimates as they are, with zeros for "
            f"what their rows say nothing of: {_listed(columns)} in "
            f"partition {_listed(whole[PARTITION].values)}. The reduction leaves such zeros out: use "
            "aggregation='reduction' (method='reduction' in daskmoe.aggregate).",
            IdentificationWarning,
        )
    if (share := float(found[UNKNOWN_SUPPORT])) > 0.0:
        gaps = found[UNIDENTIFIED].any(PARTITION).values
        warn(
            f"No local estimate knows {share:.1%} of the support: its rows lie where no partition has any "
            f"({_listed(found[FEATURE].values[gaps])}). There the model extrapolates; give a support that is "
            "like the rows of the partitions, or add the rows that are missing.",
            IdentificationWarning,
        )


def _silent(model: MixtureOfExperts, moments: Moments | None) -> list[str]:
    """Features that vary and have no slope at all in a model that was made from a shared start."""
    found = model.diagnostics
    if found is None or moments is None or found.attrs.get("aggregation") not in FROM_PILOT:
        return []
    if model.options.get("refine"):
        return []
    gate, coef = model.mixture.gate[:, 1:], model.mixture.coef[..., 1:]
    zero = (gate == 0).all(axis=0) & (coef == 0).all(axis=(0, 1))
    silent = zero & ~unidentified(moments)
    # Experts that depend on nothing at all are those of a constant target.
    return [] if zero.all() else np.array(model.rows.feature_labels)[silent].tolist()


def _listed(names: NDArray[np.str_]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(str(name)) for name in names[:_NAMED]) + more


def report_refinement(model: MixtureOfExperts, rounds: int | str) -> None:
    """Warn of a refinement that was to converge and did not, or that ends well short of a maximum.

    Parameters
    ----------
    model : MixtureOfExperts
        Refined.
    rounds : int or "converged"
        What was asked for.

    Warns
    -----
    ConvergenceWarning, FitWarning
        At the line that called the package.
    """
    report_soundness(model)
    found = model.diagnostics
    if found is None:
        return
    if dropped := int(found.get("refined_dropped_rows", 0)):
        logger.warning("%d rows were left out of the refinement: missing values or no weight", dropped)
    if found.attrs["refinement_converged"]:
        return
    left = found.attrs[LEFT]
    short = left > REFINEMENT.short * float(found["refined_weight"])
    if rounds != "converged" and not short:
        return
    count = found.sizes["round"]
    fell = int((found["round_accepted"] == 0).sum())
    where = f", much of it in {names}" if (names := found.attrs[LEFT_IN]) else ""
    turned = f" {fell} of them looked at points that were not kept." if fell else ""
    end = "did not converge in" if rounds == "converged" else "ended short after"
    warn(
        f"The refinement {end} {count} round{'s' if count > 1 else ''}: the model is about {left:.2g} nats "
        f"below a maximum of the likelihood{where}.{turned} {_advice(found, rounds)} "
        "diagnostics['round_objective'] shows how far it came.",
        ConvergenceWarning,
    )


def _advice(found: xr.Dataset, rounds: int | str) -> str:
    if rounds != "converged":
        return "Go on with daskmoe.refine(model, data, rounds='converged')."
    if found.attrs[LEFT_IN]:
        return (
            "Few rows may say which expert they belong to there: merge rare levels or drop them, or go on "
            "with daskmoe.refine."
        )
    return "Go on with daskmoe.refine, or start from another random_state."


def _absence(model: MixtureOfExperts) -> str:
    """What rows are that a fit left out without their being an error."""
    if model.rows.atoms:
        return f"{model.rows.absence}, which the experts are not fitted to"
    return f"{model.rows.absence}: target and features are all missing"


def left_out(model: MixtureOfExperts) -> dict[str, str]:
    """Labels of the partitions that a fit left out, and why."""
    found = model.diagnostics
    outcomes = outcomes_of(found)
    if found is None or not outcomes:
        return {}
    ends = zip(found[PARTITION].values, found[STATUS].values, outcomes, strict=True)
    return {str(label): str(status) for label, status, end in ends if end is Outcome.LEFT_OUT}


def _report_weight(found: xr.Dataset, params: xr.Dataset) -> None:
    """Weights of a sum that the priors can compete with are a scale gone wrong, as of shares."""
    weight, rows = float(found["weight"].sum()), int(found["rows"].sum())
    n_parameters = sum(values.size for values in params.data_vars.values())
    if weight < min(n_parameters, rows / 2):
        logger.warning(
            "The row weights sum to %.3g for %d rows. They count as repeated rows, and the priors weigh as "
            "much as so few: if they say how important rows are, use weight_kind='importance', else multiply "
            "them so that they sum to the number of rows they stand for.",
            weight,
            rows,
        )


def _report_rows(found: xr.Dataset, *, skipped: bool) -> None:
    dropped, used = (int(found[name].sum()) for name in ("dropped_rows", "rows"))
    if not dropped:
        return
    if skipped:
        logger.warning(
            "%d of %d rows were dropped: a missing value, no weight, or a partition left out",
            dropped,
            dropped + used,
        )
    else:
        logger.info("%d of %d rows have no weight", dropped, dropped + used)
