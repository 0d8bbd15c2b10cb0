"""Columns that a user hardly meant: identifiers, the target under another name, values as they are stored."""

from __future__ import annotations

import numpy as np
import xarray as xr

from daskmoe.api.caller import warn
from daskmoe.engine import FitRequest
from daskmoe.errors import DataWarning, FitWarning
from daskmoe.model import MixtureOfExperts
from daskmoe.model.moments import moments_from
from daskmoe.numerics.base.policies import SOUNDNESS
from daskmoe.rows import FeatureVariable
from daskmoe.rows.variables import listed

# Of values as a file holds them; xarray takes them away where it decodes.
_OF_STORED_VALUES = ("_FillValue", "missing_value", "scale_factor", "add_offset")


def report_identifiers(request: FitRequest) -> None:
    """Warn of integers that differ in every row, of data in memory; of running numbers `report_columns` does.

    Warns
    -----
    FitWarning
        At the line that called the package.
    """
    if isinstance(request.source, str):
        return
    schema = request.schema
    _warn_of_identifiers(
        [
            each.name
            for each in schema.variables
            if _is_plain(each)
            and {*each.dims} == {*schema.sample_dims}
            and _all_differ(request.source.variables[each.name])
        ]
    )


def report_undecoded(request: FitRequest) -> None:
    """Warn of data in memory whose fill values, scale and offset are still to be applied.

    Warns
    -----
    DataWarning
        At the line that called the package.
    """
    if isinstance(request.source, str):
        return
    variables = request.source.variables
    found = [
        name for name in sorted(request.used) if any(a in variables[name].attrs for a in _OF_STORED_VALUES)
    ]
    if found:
        known = sorted({a for name in found for a in _OF_STORED_VALUES if a in variables[name].attrs})
        warn(
            f"Expected decoded values, got the attributes {listed(known)} of {listed(found)}: fill values "
            "and packed numbers are taken as they are. Decode them: data = xarray.decode_cf(data); or drop "
            "these attributes if that was done.",
            DataWarning,
        )


def report_columns(model: MixtureOfExperts) -> None:
    """Warn of columns that the moments of the rows tell of: copies of the target, and running numbers.

    Parameters
    ----------
    model : MixtureOfExperts
        As computed.

    Warns
    -----
    FitWarning
        At the line that called the package.
    """
    found = moments_from(model.diagnostics)
    if found is None or not found.scatter[-1, -1] > 0:
        return
    p = found.n_features
    spread = np.diagonal(found.scatter)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of several outputs the one that a feature tells best.
        explained = np.max(found.scatter[p:, :p] ** 2 / (spread[:p] * spread[p:, None]), axis=0)
    names = model.rows.feature_labels
    if copies := [name for name, share in zip(names, explained, strict=True) if share > SOUNDNESS.copy]:
        listed = ", ".join(map(repr, copies))
        warn(
            f"Feature {listed} tells the target {model.target!r} exactly: the target itself, or a multiple. "
            "If that was not meant, name the others in features=.",
            FitWarning,
        )
    if model.rows.weight is None:
        # Of 0, 1, ..., n - 1, in any order; of other numbers it would be chance.
        n = found.weight
        running = np.isclose(spread[:p], n * (n * n - 1.0) / 12.0, rtol=1e-9, atol=0.0)
        running &= np.isclose(2.0 * found.mean[:p] % 1.0, 0.0, atol=1e-6)
        plain = np.array([_is_plain(each) for each in model.rows.variables for _ in each.labels], dtype=bool)
        if n >= SOUNDNESS.identifier_rows:
            _warn_of_identifiers(
                [name for name, is_one in zip(names, running & plain, strict=True) if is_one]
            )


def _is_plain(variable: FeatureVariable) -> bool:
    return variable.is_plain and variable.feature_dim is None


def _all_differ(variable: xr.Variable) -> bool:
    if variable.chunks is not None or getattr(variable.dtype, "kind", "") not in "iu":
        return False
    if not SOUNDNESS.identifier_rows <= variable.size <= SOUNDNESS.most_identifier_rows:
        return False
    values = np.unique(np.asarray(variable.values))
    return bool(values.size == variable.size and values[-1] - values[0] >= values.size)


def _warn_of_identifiers(names: list[str]) -> None:
    if names:
        listed = ", ".join(map(repr, names))
        warn(
            f"Feature {listed} has a different integer in every row, as an identifier has. If that is what "
            "it is, name the others in features=.",
            FitWarning,
        )
