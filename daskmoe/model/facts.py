"""What the table of a model says of the whole of it, a line each: the head of its text and of its card."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import xarray as xr

from daskmoe.model.table import KINDS, SHOWN_KIND
from daskmoe.rows.names import (
    CLUSTERS,
    EXPERT,
    IDENTIFIED,
    N_CLUSTERS,
    OUTCOME,
    PARAMETER,
    PARTITION,
    STATUS,
    Kind,
    Outcome,
)

_REASON = 100
_LINE = 300
# Parameters without errors that are named one by one.
_NAMED = 12
_NOT_OK = (Outcome.NOT_CONVERGED, Outcome.LEFT_OUT)
_REFINE = "daskmoe.refine(model, data, rounds='converged')"
_STEP = "one step from a shared start, on sums of all partitions"
# What the names of candidates mean; those of the option `aggregation` are in its documentation.
_MEANINGS = {
    "one-shot": "the partitions' information at a shared start, combined",
    "narrow one-shot": "the partitions' information at a shared start, combined",
    "half step": "half the way from a shared start to the one-shot estimate",
    **dict.fromkeys(("Newton step", "damped step", "short step", "EM step", "sure step"), _STEP),
    "pilot": "the shared start itself, fitted to a sample",
    "least squares": "one regression, the same for all experts",
    "information": "local fits, averaged by their information",
    "local": "one fit to all rows",
}


def title(table: xr.Dataset) -> str:
    """One line."""
    return f"Mixture of {table.sizes[EXPERT]} {table.attrs['family']} experts"


def facts(table: xr.Dataset) -> dict[str, str]:
    """Names of facts -> texts; those that are not known are left out."""
    units = table.attrs["target_units"]
    found = {
        "target": f"{table.attrs['target']}{f' [{units}]' if units else ''} ({table.attrs['sample_dims']})",
        "features": str(table.attrs["n_features"]),
    }
    if classes := table.attrs["classes"]:
        listed = textwrap.shorten(", ".join(classes[1:]), _REASON, placeholder=" ...")
        found["classes"] = f"{len(classes)}: {listed}, against {classes[0]}"
    if "left_out" in table.sizes:
        reasons = (f"{name} ({cause(str(why.values))})" for name, why in left_out(table).items())
        found["left out"] = textwrap.shorten("; ".join(reasons), _LINE, placeholder=" ...")
    if "r2" in table:
        found["R2"] = f"{float(table['r2']):.4f} of the given rows"
    if "accuracy" in table:
        found["accuracy"] = f"{float(table['accuracy']):.4f} of the given rows"
    if not table.attrs["fitted"]:
        return found
    if PARTITION in table.sizes:
        found["partitions"] = f"{table.sizes[PARTITION]}{_states(table)}"
    if "rows_used" in table:
        counts = {
            what: int(table[name])
            for what, name in (("dropped", "rows_dropped"), (table.attrs["absence"], "rows_absent"))
            if name in table
        }
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        found["rows"] = f"{int(table['rows_used'])}{f' ({said})' if said else ''}"
    if "aggregation" in table.attrs:
        found["aggregation"] = _aggregation(str(table.attrs["aggregation"]))
    if "n_rounds" in table:
        found["refinement"] = _refinement(table)
    if "n_updates" in table:
        count = int(table["n_updates"])
        found["updates"] = (
            f"{count} update{'s' if count > 1 else ''}, the last of {int(table['last_update_rows'])} rows, "
            f"drift {float(table['last_update_drift']):.2g} (1: none)"
        )
    found["likelihood"] = _likelihood(table)
    if "close_rivals" in table:
        count = int(table["close_rivals"])
        found["rivals"] = (
            f"{count} other start{'s' if count > 1 else ''} ended close, the nearest "
            f"{float(table['nearest_rival']):.1e} nats a row below"
        )
    if "at_floor" in table:
        named = [name for name, flag in zip(names(table), table["at_floor"].values, strict=True) if flag]
        found["floor"] = f"{', '.join(named)} at the variance floor: on values that the target repeats"
    return found | _errors(table)


def names(table: xr.Dataset) -> list[str]:
    """What its experts are called."""
    return [str(name) for name in table.attrs["expert_names"]]


def left_out(table: xr.Dataset) -> dict[str, xr.DataArray]:
    """Variables that are no features, and why."""
    return {str(each["left_out"].item()): each for each in table["left_out_reason"]}


def cause(why: str) -> str:
    """The beginning of a reason, without what to do about it."""
    return re.split("[,;:]", why, maxsplit=1)[0]


def not_ok(table: xr.Dataset) -> list[int]:
    """Positions of the partitions that did not converge or were left out."""
    outcomes = table[OUTCOME].values.tolist() if OUTCOME in table else []
    return [m for m, outcome in enumerate(outcomes) if outcome in _NOT_OK]


def _states(table: xr.Dataset) -> str:
    if OUTCOME not in table:
        return ""
    failed = not_ok(table)
    if not failed:
        return ", all ok"
    first = table[STATUS][failed[0]]
    label = f" {first[PARTITION].item()}" if PARTITION in first.coords else ""
    reason = textwrap.shorten(str(first.item()), _REASON, placeholder=" ...")
    return f", {len(failed)} not ok (first: partition{label}, {reason})"


def _aggregation(name: str) -> str:
    """The candidate that was chosen, with what it is; that of a second shared start is numbered."""
    meaning = _MEANINGS.get(re.sub(r" \d+$", "", name))
    return f"{name} ({meaning})" if meaning else name


def _refinement(table: xr.Dataset) -> str:
    converged, count = table.attrs["refinement_converged"], int(table["n_rounds"])
    state = "converged" if converged else "not converged"
    # The sum is of the rows of the refinement, which need not be those of the fit: it is not told a row.
    reached = f"log-likelihood {float(table['round_log_likelihood']):.2f} of all its rows"
    short = ""
    if not converged and "left_to_gain" in table:
        short = f", about {float(table['left_to_gain']):.2g} nats short of a maximum"
    return f"{state} in {count} round{'s' if count > 1 else ''}, {reached}{short}"


def _likelihood(table: xr.Dataset) -> str:
    size = f"{int(table['n_parameters'])} parameters"
    if "log_likelihood" not in table:
        return f"not kept, {size}: model.log_likelihood(data) finds it"
    value = float(table["log_likelihood"])
    a_row = f"{value / float(table['weight']):.4f} a row"
    criteria = (f"{name.upper()} {float(table[name]):.1f}" for name in ("aic", "bic", "icl") if name in table)
    return f"{value:.2f} nats, {a_row}; {size}; {', '.join(criteria)}"


def _errors(table: xr.Dataset) -> dict[str, str]:
    """Which kinds of standard errors there are, and which parameters have none."""
    kinds = [Kind(text) for text in table.attrs[KINDS]]
    if not kinds:
        return {"errors": f"none: {_REFINE} finds them"}
    if kinds == [Kind.APPROXIMATE]:
        text = "approximate, from the information near the maximum; refine for exact ones"
    else:
        clusters = f" ({table.attrs.get(N_CLUSTERS)} {table.attrs.get(CLUSTERS)})"
        text = ", ".join(f"{kind}{clusters if kind is Kind.CLUSTER else ''}" for kind in kinds)
        if len(kinds) > 1:
            text += f"; shown: {table.attrs[SHOWN_KIND]}"
    found = {"errors": text}
    if none := _without_errors(table):
        # Of many, the features; of those that have none, the variables.
        each = [name for name, _ in none] if len(none) <= _NAMED else [term for _, term in none]
        listed = textwrap.shorten(", ".join(dict.fromkeys(each)), _REASON, placeholder=" ...")
        found["no errors"] = f"of {len(none)} parameters that the rows do not identify: {listed}"
    return found


def _without_errors(table: xr.Dataset) -> list[tuple[str, str]]:
    """Labels, as of `MixtureOfExperts.covariance`, and terms of the parameters without errors."""
    if IDENTIFIED not in table:
        return []
    found = []
    for row, expert in np.argwhere(table[IDENTIFIED].transpose(PARAMETER, EXPERT).values == 0):
        variable, term = (str(table[name].values[row]) for name in ("variable", "term"))
        label = str(table[EXPERT].values[expert])
        found.append((f"{variable}[{label}]" if term == variable else f"{variable}[{label}, {term}]", term))
    return found
