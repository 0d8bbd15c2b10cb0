"""Models that are joined or compared: opened, of the same things, on a support of the caller's own."""

from __future__ import annotations

import os
from collections.abc import Sequence

import xarray as xr

from daskmoe.engine.given_support import load_support
from daskmoe.errors import InvalidDataError
from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.base.parameters import SupportSample
from daskmoe.rows import RowSchema, match_schema, source_of


def check_models(models: Sequence[MixtureOfExperts]) -> None:
    """Raise `InvalidDataError` unless there are models and they speak of the same things."""
    if not models:
        raise InvalidDataError("models: expected at least one fitted model, got none.")
    first = models[0]
    for m, model in enumerate(models[1:], start=1):
        pairs = {
            "features": (first.rows.expert_labels, model.rows.expert_labels),
            "features of the gates": (first.rows.gate_labels, model.rows.gate_labels),
            "offset": (first.rows.offset, model.rows.offset),
            "target": (first.target, model.target),
            "family": (first.family, model.family),
            "classes of the target": (first.rows.classes, model.rows.classes),
            "outputs of the target": (first.rows.outputs, model.rows.outputs),
            "levels, knots and other codings of the features": (first.rows.codings, model.rows.codings),
            "units of the target": (
                first.rows.target_attrs.get("units"),
                model.rows.target_attrs.get("units"),
            ),
        }
        units = _units(model)
        pairs |= {f"units of {name!r}": (unit, units.get(name)) for name, unit in _units(first).items()}
        for what, (expected, got) in pairs.items():
            if expected != got:
                raise InvalidDataError(
                    f"models: expected the same {what} in all, got {expected!r} in model 0 and {got!r} in "
                    f"model {m}. Fit them to data labelled alike, with the same categories= and knots=."
                )


def _units(model: MixtureOfExperts) -> dict[str, str | None]:
    return {variable.name: variable.units for variable in model.rows.variables}


def support_sample(support: xr.Dataset | str | os.PathLike[str], rows: RowSchema, seed: int) -> SupportSample:
    """Complete rows of features from the caller's data, matched by label."""
    dataset, source = source_of(support, "support", rows.row_dim)
    return load_support(source, match_schema(dataset, rows, need_target=False), seed)
