"""What the diagnostics of a model say of its fit, those of models saved by daskmoe 0.1.0 too."""

from __future__ import annotations

import xarray as xr

from daskmoe.rows.names import OUTCOME, STATUS, Outcome


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
