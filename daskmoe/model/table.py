"""All that a model says of itself as one labelled dataset, from which its text and its card are made."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Any, Final

import numpy as np
import xarray as xr

from daskmoe.model import criteria, uncertainty
from daskmoe.model.floor import experts_at_floor
from daskmoe.model.history import distances_of_rivals, outcomes_of, training_of
from daskmoe.model.labels import columns_of, expert_names, parameter_variables, parameters_from
from daskmoe.model.profile import profile
from daskmoe.model.store import ModelParts
from daskmoe.numerics.base.policies import SOUNDNESS
from daskmoe.numerics.families import Family
from daskmoe.options import check_choice
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.names import (
    ABSENT_ROWS,
    CLASS,
    CLUSTERS,
    COEF,
    EXPERT,
    EXPERT_WEIGHT,
    GATE_COEF,
    GATE_INTERCEPT,
    IDENTIFIED,
    INTERCEPT,
    KIND,
    LEFT,
    N_CLUSTERS,
    OUTCOME,
    PARAMETER,
    PARTITION,
    STATUS,
    UPDATE,
    UPDATE_DRIFT,
    UPDATE_ROWS,
    Kind,
)

# Attributes of the table: names of kinds of errors, and of the kind that it shows.
KINDS: Final = "kinds"
SHOWN_KIND: Final = "kind"

_TEXTS: Final = {
    "estimate": "estimate",
    "standard_error": "standard error of the estimate, NaN where there is none",
    "z": "estimate in units of its standard error",
    "lower": "lower bound of the confidence interval",
    "upper": "upper bound of the confidence interval",
    IDENTIFIED: "1 where the rows identify the parameter by itself",
    "share": "share of the rows that the expert speaks for",
    "standard_deviation": "root of the variance of the expert's density",
    "at_floor": "1 where the expert is as narrow as the penalty lets it be, on repeated values",
    "feature_mean": "mean of the feature over the expert's rows of the given data",
    "feature_deviation": "standard deviation of the feature over the expert's rows of the given data",
    "accuracy": "share of the rows of the given data whose class is the most likely one",
    "r2": "share of the variance of the target in the given data that the prediction explains",
    "n_parameters": "free parameters that the rows can tell apart",
    "log_likelihood": "log-likelihood of the model's own rows",
    "aic": "Akaike's criterion, the less the better",
    "bic": "Schwarz' criterion, the less the better",
    "icl": "integrated completed likelihood, the less the better",
    "weight": "sum of the row weights of the last fit",
    "rows_used": "rows that were used",
    "rows_dropped": "rows left out: missing values or no weight",
    "rows_absent": "rows that are not there: target and features are missing",
    "n_rounds": "rounds of the last refinement",
    "round_log_likelihood": "log-likelihood that the last refinement reached, of all its rows",
    "left_to_gain": "what the last refinement left to gain",
    "close_rivals": "shared starts that ended close to the model's",
    "nearest_rival": "how far below the model's the nearest of them ended, a row",
    "n_updates": "updates with new rows",
    "last_update_rows": "rows of the last of them",
    "last_update_drift": "how far their optimum was, squared, a parameter: about one where nothing changed",
    "left_out_reason": "why a variable is no feature",
}
# Of the diagnostics, as they are.
_KEPT: Final = (
    "rows", "dropped_rows", ABSENT_ROWS, STATUS, "candidate_objective", "candidate_log_likelihood",
)  # fmt: skip
_IN_NATS: Final = ("log_likelihood", "round_log_likelihood", "left_to_gain", "nearest_rival")


def make_table(
    parts: ModelParts, n_parameters: int, data: Data | None, level: float, kind: str
) -> xr.Dataset:
    """The table of `MixtureOfExperts.table`.

    Parameters
    ----------
    parts : ModelParts
    n_parameters : int
        Free parameters.
    data : xr.Dataset, str, path or None
        Rows to say where the experts rule.
    level, kind
        Of the confidence intervals.
    """
    family, diagnostics = parts.densities, parts.diagnostics
    table = _estimates(parts, family, n_parameters, level, kind)
    variables = _of_experts(parts, family) | _of_fit(parts, n_parameters)
    if parts.rows.left_out:
        table = table.assign_coords({"left_out": list(parts.rows.left_out)})
        variables["left_out_reason"] = ("left_out", list(parts.rows.left_out.values()))
    table = table.assign(
        {name: xr.Variable(dims, values, _attrs_of(name)) for name, (dims, values) in variables.items()}
    )
    if diagnostics is not None:
        table = table.assign({name: diagnostics[name] for name in _KEPT if name in diagnostics})
        if outcomes := outcomes_of(diagnostics):
            table[OUTCOME] = (PARTITION, [str(each) for each in outcomes])
    if data is not None:
        seen = profile(parameters_from(parts.params, parts.rows, family), family, data, parts.rows)
        labelled = seen.assign_coords({EXPERT: table[EXPERT]})
        table = table.assign({name: found.assign_attrs(_attrs_of(name)) for name, found in labelled.items()})
    return table.assign_attrs(_story(parts))


def _estimates(parts: ModelParts, family: Family, n_parameters: int, level: float, kind: str) -> xr.Dataset:
    """Estimates, errors, z and intervals by parameter and expert, with a label, term and units each."""
    params = parts.params
    columns = {"estimate": _by_parameter(params, family)}
    check_choice("kind", kind, tuple(Kind))
    errors = None
    if uncertainty.kinds_of(parts.diagnostics):
        errors = uncertainty.standard_errors(params, parts.diagnostics, kind, family)
    attrs: dict[str, Any] = {}
    missing = xr.full_like(columns["estimate"], np.nan)
    columns |= dict.fromkeys(("standard_error", "z", "lower", "upper"), missing)
    if errors is not None:
        interval = uncertainty.confidence_interval(params, errors, level, family, n_parameters)
        columns["standard_error"] = error = _by_parameter(errors, family)
        own = [label.name for label in family.nuisances]
        tested = (error > 0) & ~error["variable"].isin(own)
        columns["z"] = (columns["estimate"] / error).where(tested)
        columns |= {
            each: _by_parameter(interval.sel(bound=each, drop=True), family) for each in ("lower", "upper")
        }
        attrs = {"level": level, SHOWN_KIND: str(errors.attrs[KIND])}
        if parts.diagnostics is not None and IDENTIFIED in parts.diagnostics:
            columns[IDENTIFIED] = _by_parameter(
                uncertainty.identified(params, parts.diagnostics, family), family
            )
    units = _units(params, parts.rows, family)
    described = {name: values.assign_attrs(_attrs_of(name)) for name, values in columns.items()}
    return xr.Dataset(described, attrs=attrs).assign_coords(units=(PARAMETER, units))


def _by_parameter(values: xr.Dataset, family: Family) -> xr.DataArray:
    """Values shaped like the parameters, by parameter and expert."""
    own = [label.name for label in family.nuisances]
    blocks, labels, names, terms = [], [], [], []
    dims_of = parameter_variables(family, columns_of(values))
    for name in (INTERCEPT, COEF, *own, GATE_INTERCEPT, GATE_COEF):
        found, dims = values[name], dims_of[name]
        if CLASS in dims:
            # The reference has no parameters of its own.
            found = found.isel({CLASS: slice(1, None)})
        blocks.append(found.transpose(*dims, EXPERT).values.reshape(-1, found.sizes[EXPERT]))
        places = itertools.product(*(found[dim].values for dim in dims))
        inside = [", ".join(map(str, place)) for place in places]
        labels += [f"{name}[{term}]" if dims else name for term in inside]
        names += [name] * len(inside)
        terms += inside if dims else [name]
    coords = {
        PARAMETER: np.array(labels, np.str_),
        EXPERT: values[EXPERT].values,
        "variable": (PARAMETER, np.array(names, np.str_)),
        "term": (PARAMETER, np.array(terms, np.str_)),
    }
    return xr.DataArray(np.concatenate(blocks), coords, (PARAMETER, EXPERT))


def _units(params: xr.Dataset, rows: RowSchema, family: Family) -> list[str]:
    """Units of every parameter of `_by_parameter`; empty where they are not known."""
    # Columns that a coding makes have no units of their own.
    features = {
        label: each.units if each.coding is None and not each.parts else None
        for each in rows.variables
        for label in each.labels
    }
    found = []
    n_predictors = family.n_predictors if family.nominal or family.by_predictor else 1
    n_each = family.n_outputs
    own = {label.name for label in family.nuisances}
    for name in (INTERCEPT, COEF, *(label.name for label in family.nuisances), GATE_INTERCEPT, GATE_COEF):
        if name == COEF:
            found += n_predictors * [
                _per(params[INTERCEPT].attrs.get("units"), unit)
                for unit in map(features.get, rows.expert_labels)
            ]
        elif name == INTERCEPT:
            found += n_predictors * [str(params[name].attrs.get("units", ""))]
        elif name == GATE_COEF:
            found += [_per("1", unit) for unit in map(features.get, rows.gate_labels)]
        else:
            found += (n_each if name in own else 1) * [str(params[name].attrs.get("units", ""))]
    return found


def _per(numerator: str | None, unit: str | None) -> str:
    if numerator is None or unit is None:
        return ""
    return numerator if unit == "1" else f"{numerator} / ({unit})"


def _of_experts(parts: ModelParts, family: Family) -> dict[str, tuple[Any, Any]]:
    parameters = parameters_from(parts.params, parts.rows, family)
    found: dict[str, tuple[Any, Any]] = {}
    shares = shares_of(parts.diagnostics)
    if shares is not None and shares.sizes[EXPERT] == parameters.n_experts:
        found["share"] = (EXPERT, shares.values)
    # At two predictors: of families whose spread depends on the features there is no one number.
    anywhere = np.broadcast_to([0.0, 1.0], (*parameters.coef.shape[:2], 2))
    variance = family.variance(anywhere, parameters.nuisance)
    if not family.by_predictor and (variance[:, 0] == variance[:, 1]).all():
        found["standard_deviation"] = (EXPERT, np.sqrt(variance[:, 0]))
    spikes = experts_at_floor(parameters, family, parts.diagnostics, parts.options)
    if spikes:
        numbers = [spike.expert for spike in spikes]
        found["at_floor"] = (EXPERT, np.isin(np.arange(parameters.n_experts), numbers).astype(np.int64))
    return found


def shares_of(diagnostics: xr.Dataset | None) -> xr.DataArray | None:
    """The share of the fit's rows that each expert speaks for; None where a model does not know."""
    if diagnostics is None or EXPERT_WEIGHT not in diagnostics:
        return None
    return diagnostics[EXPERT_WEIGHT] / diagnostics[EXPERT_WEIGHT].sum()


def _of_fit(parts: ModelParts, n_parameters: int) -> dict[str, tuple[Any, Any]]:
    """Numbers of the whole model, of those that it knows."""
    diagnostics, training = parts.diagnostics, training_of(parts.diagnostics)
    found: dict[str, float | int] = {"n_parameters": n_parameters}
    if parts.weight is not None:
        found["weight"] = parts.weight
    if training.log_likelihood is not None and parts.weight is not None:
        known = criteria.Likelihood(training.log_likelihood, parts.weight)
        found["log_likelihood"] = known.value
        found["aic"], found["bic"] = criteria.aic(known, n_parameters), criteria.bic(known, n_parameters)
        if training.entropy is not None:
            found["icl"] = criteria.icl(known, n_parameters, training.entropy)
    if diagnostics is None:
        return {name: ((), value) for name, value in found.items()}
    for name, of in (("rows_used", "rows"), ("rows_dropped", "dropped_rows"), ("rows_absent", ABSENT_ROWS)):
        if of in diagnostics:
            found[name] = int(diagnostics[of].sum())
    if "refinement_converged" in diagnostics.attrs:
        rounds = diagnostics["round_log_likelihood"]
        found["n_rounds"] = rounds.size
        # The model is where the last accepted round was.
        found["round_log_likelihood"] = rounds.values[diagnostics["round_accepted"].values == 1][-1]
        # Models that an earlier version saved do not know.
        if LEFT in diagnostics.attrs:
            found["left_to_gain"] = float(diagnostics.attrs[LEFT])
    if UPDATE_DRIFT in diagnostics:
        found["n_updates"] = diagnostics.sizes[UPDATE]
        found["last_update_rows"] = int(diagnostics[UPDATE_ROWS][-1])
        found["last_update_drift"] = float(diagnostics[UPDATE_DRIFT][-1])
    if close := [each for each in distances_of_rivals(diagnostics) if each <= SOUNDNESS.rival]:
        found["close_rivals"], found["nearest_rival"] = len(close), close[0]
    return {name: ((), value) for name, value in found.items()}


def _story(parts: ModelParts) -> dict[str, Any]:
    """Texts and flags of the whole model."""
    rows, known = parts.rows, {} if parts.diagnostics is None else parts.diagnostics.attrs
    story: dict[str, Any] = {
        "family": parts.family,
        "target": rows.target,
        "target_units": str(rows.target_attrs.get("units", "")),
        "sample_dims": ", ".join(rows.sample_dims),
        "n_features": len(rows.feature_names),
        "absence": "at atoms" if rows.atoms else "not there: all values missing",
        "classes": [] if rows.classes is None else [str(label) for label in rows.classes.as_labels()],
        "fitted": int(parts.diagnostics is not None),
        "expert_names": expert_names(parts.params),
        KINDS: [str(kind) for kind in uncertainty.kinds_of(parts.diagnostics)],
    }
    names = ("aggregation", "converged", "refinement_converged", CLUSTERS, N_CLUSTERS)
    story |= {name: known[name] for name in names if name in known}
    if Kind.CLUSTER not in story[KINDS]:
        story = {name: value for name, value in story.items() if name not in (CLUSTERS, N_CLUSTERS)}
    return story


def _attrs_of(name: Hashable) -> dict[str, str]:
    attrs = {"long_name": _TEXTS[str(name)]}
    return attrs | {"units": "nats"} if name in _IN_NATS else attrs
