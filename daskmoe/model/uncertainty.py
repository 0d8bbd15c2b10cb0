"""Covariances, standard errors and confidence intervals, from what a fit left in the diagnostics."""

from __future__ import annotations

import math

import numpy as np
import scipy
import xarray as xr

from daskmoe.errors import NotAtOptimumError
from daskmoe.model.covariances import stacked_coordinates, unstack
from daskmoe.numerics.base.policies import INFERENCE
from daskmoe.numerics.families import Family
from daskmoe.options import check_choice, check_share
from daskmoe.rows.names import (
    CLUSTERS,
    COVARIANCE,
    IDENTIFIED,
    KIND,
    N_CLUSTERS,
    OLD_STANDARD_ERROR,
    OTHER_PARAMETER,
    PARAMETER,
    STANDARD_ERROR,
    Kind,
)

_REFINE = "Use daskmoe.refine(model, data, rounds='converged')"


def kinds_of(diagnostics: xr.Dataset | None) -> list[Kind]:
    """The kinds of errors that a model has."""
    if diagnostics is None or KIND not in diagnostics.coords:
        return []
    return [Kind(text) for text in diagnostics[KIND].values.tolist()]


def covariance(params: xr.Dataset, diagnostics: xr.Dataset | None, kind: str, family: Family) -> xr.DataArray:
    """Covariances of all pairs of parameters; see `MixtureOfExperts.covariance`."""
    found, known = _find(diagnostics, kind)
    if COVARIANCE not in known:
        raise NotAtOptimumError(
            "Expected a model that keeps covariances, got one that has standard errors alone: of daskmoe "
            f"0.1.0, or of more than {INFERENCE.most_parameters} parameters. {_REFINE}, with fewer features."
        )
    matrix = xr.DataArray(
        known[COVARIANCE].sel({KIND: found}).values, dims=(PARAMETER, OTHER_PARAMETER), name=COVARIANCE
    )
    coords = stacked_coordinates(params, family)
    identified = (PARAMETER, known[IDENTIFIED].values.astype(np.bool_))
    return matrix.assign_coords({**coords, IDENTIFIED: identified}).assign_attrs(_attrs(known, found))


def standard_errors(
    params: xr.Dataset, diagnostics: xr.Dataset | None, kind: str, family: Family
) -> xr.Dataset:
    """Standard errors shaped like ``params``; see `MixtureOfExperts.standard_errors`."""
    found, known = _find(diagnostics, kind)
    if STANDARD_ERROR in known:
        errors = known[STANDARD_ERROR].sel({KIND: found}).values
        return unstack(errors, params, family).assign_attrs(_attrs(known, found))
    names = {f"{OLD_STANDARD_ERROR}{name}": str(name) for name in params.data_vars}
    kept = known[list(names)].rename(names).sel({KIND: found}, drop=True)
    ordered = {
        name: kept[name].transpose(*params[name].dims).assign_attrs(params[name].attrs)
        for name in names.values()
    }
    return xr.Dataset(ordered, params.coords, _attrs(known, found))


def confidence_interval(
    params: xr.Dataset, errors: xr.Dataset, level: float, family: Family, n_parameters: int
) -> xr.Dataset:
    """Intervals of the parameters; see `MixtureOfExperts.confidence_interval`."""
    level = check_share("level", level)
    if errors.attrs[KIND] == Kind.CLUSTER:
        width = _cluster_quantile(errors.attrs[N_CLUSTERS], n_parameters, level) * errors
    else:
        width = float(scipy.special.ndtri(0.5 + level / 2)) * errors
    lower, upper = params - width, params + width
    # On the scale of logarithms, or of log-odds between its ends, a nuisance stays within them and its
    # estimator is closer to normal.
    for label in family.nuisances:
        name, seen = label.name, label.seen
        above_least = params[name] - seen.least
        odds = above_least / (seen.most - params[name])
        ratio = np.exp(width[name] * (1.0 + odds) / above_least)
        lower[name] = seen.least + above_least * (1.0 + odds) / (ratio + odds)
        upper[name] = seen.least + above_least * (1.0 + odds) * ratio / (1.0 + odds * ratio)
    bound = xr.DataArray(["lower", "upper"], dims="bound", name="bound")
    both: xr.Dataset = xr.concat([lower, upper], bound)
    return both.assign_attrs({"level": level, **errors.attrs})


def _cluster_quantile(n_clusters: int, n_parameters: int, level: float) -> float:
    """What cluster errors are multiplied with, which come out too small where clusters are few.

    Fitted parameters take a part of the clusters' scores away: as MacKinnon and White (1985) do for rows, G -
    P stands for G - 1, or half of G where P is more. The spread of so many scores is not known either:
    Student's t.
    """
    left = n_clusters - min(n_parameters, n_clusters / 2)
    student = float(scipy.special.stdtrit(n_clusters - 1, 0.5 + level / 2))
    return student * math.sqrt(max(1.0, (n_clusters - 1) / left))


def identified(params: xr.Dataset, diagnostics: xr.Dataset, family: Family) -> xr.Dataset:
    """1 where the rows identify a parameter by itself, shaped like ``params``."""
    return unstack(diagnostics[IDENTIFIED].values, params, family)


def _find(diagnostics: xr.Dataset | None, kind: str) -> tuple[Kind, xr.Dataset]:
    """The kind to be given where ``kind`` is asked for, and the diagnostics that have it."""
    check_choice("kind", kind, tuple(Kind))
    known = kinds_of(diagnostics)
    if diagnostics is None or not known:
        raise NotAtOptimumError(
            "Expected a model at or near the maximum of the likelihood, got one whose refinement did not "
            f"come near it or was not run. {_REFINE} first."
        )
    # The best there is, and it says what it is.
    found = Kind.APPROXIMATE if kind == Kind.MODEL and Kind.MODEL not in known else Kind(kind)
    if found in known:
        return found, diagnostics
    had = f"kind: expected one of {[str(each) for each in known]}, got {kind!r}: "
    if Kind.MODEL not in known:
        raise NotAtOptimumError(f"{had}the model is near the maximum, not at it. {_line(found)} first.")
    if found is Kind.APPROXIMATE:
        raise NotAtOptimumError(f"{had}the model is at the maximum, and its errors are exact.")
    if found is Kind.CLUSTER and Kind.ROBUST in known:
        raise NotAtOptimumError(
            f"{had}its scores are of one cluster, or of a model of an older version. {_line(found)}."
        )
    raise NotAtOptimumError(
        f"{had}its pass over the rows did not fit in the number of rounds. {_line(found)}."
    )


def _line(kind: Kind) -> str:
    """What to do for errors of a kind."""
    if kind is not Kind.CLUSTER:
        return _REFINE
    return f"{_REFINE[:-1]}, cluster='day') with the coordinate that tells the clusters"


def _attrs(diagnostics: xr.Dataset, kind: Kind) -> dict[str, str | int]:
    attrs: dict[str, str | int] = {KIND: str(kind)}
    if kind is Kind.CLUSTER:
        attrs |= {name: diagnostics.attrs[name] for name in (CLUSTERS, N_CLUSTERS)}
    return attrs
