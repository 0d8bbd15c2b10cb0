"""How much is done: the sizes and limits that studies set, each with the study that set it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LocalFit:
    """How one partition is fitted.

    Parameters
    ----------
    n_experts : int
        K.
    family : str
        Expert density.
    n_init : int
        Starts that race on the subsample; more join where they end in several optima.
    start_rows : int
        Rows of that subsample; all rows where there are fewer.
    max_passes : int
        Limit of an ascent's Newton passes over all rows; the best one may take as many again.
    tolerance : float
        Converged when the predicted gain in log-likelihood a row falls under it, in nats.
    """

    n_experts: int
    family: str = "gaussian"
    n_init: int = 12
    start_rows: int = 2_000
    max_passes: int = 100
    tolerance: float = 1e-9
