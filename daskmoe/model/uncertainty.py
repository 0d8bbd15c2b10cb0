"""Standard errors and confidence intervals, from what refinement left in the diagnostics."""

from __future__ import annotations

import numpy as np
import scipy
import xarray as xr

from daskmoe.errors import NotAtOptimumError
from daskmoe.numerics.families import Family
from daskmoe.options import check_choice, check_share

KINDS = ("model", "robust")

_PREFIX = "standard_error_"


def standard_errors(params: xr.Dataset, diagnostics: xr.Dataset | None, kind: str) -> xr.Dataset:
    """Standard errors shaped like ``params``; see `MixtureOfExperts.standard_errors`."""
    check_choice("kind", kind, KINDS)
    names = {f"{_PREFIX}{name}": name for name in params.data_vars}
    if diagnostics is None or not set(names) <= set(map(str, diagnostics.data_vars)):
        raise NotAtOptimumError(
            "Expected a model at the maximum of the likelihood, got one whose refinement did not reach it or "
            "was not run. Use daskmoe.refine(model, data, rounds='converged') first."
        )
    if kind not in diagnostics["kind"].values:
        raise NotAtOptimumError(
            f"kind: expected one of {[str(known) for known in diagnostics['kind'].values]}, got {kind!r}: "
            "its pass over the rows did not fit in the number of rounds. Use "
            "daskmoe.refine(model, data, rounds='converged')."
        )
    found = diagnostics[list(names)].rename(names).sel(kind=kind, drop=True)
    ordered = {
        name: found[name].transpose(*params[name].dims).assign_attrs(params[name].attrs)
        for name in names.values()
    }
    return xr.Dataset(ordered, params.coords)


def confidence_interval(params: xr.Dataset, errors: xr.Dataset, level: float, family: Family) -> xr.Dataset:
    """Normal intervals of the parameters; see `MixtureOfExperts.confidence_interval`."""
    level = check_share("level", level)
    width = float(scipy.special.ndtri(0.5 + level / 2)) * errors
    lower, upper = params - width, params + width
    # On the log scale a nuisance stays positive and its estimator is closer to normal.
    for name in (label.name for label in family.nuisances):
        ratio = np.exp(width[name] / params[name])
        lower[name], upper[name] = params[name] / ratio, params[name] * ratio
    bound = xr.DataArray(["lower", "upper"], dims="bound", name="bound")
    both: xr.Dataset = xr.concat([lower, upper], bound)
    return both.assign_attrs(level=level)
