"""Two models shown as one: experts, and the gates of the atoms beside them."""

from __future__ import annotations

from typing import Protocol

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.model.moe import MixtureOfExperts
from daskmoe.model.pieces import card_of, rows_of_facts
from daskmoe.model.store import GATES, prefixed
from daskmoe.model.summary import Summary
from daskmoe.rows.names import CLASS, COEF, EXPERT, FEATURE, GATE_FEATURE

_ATOM = "atom"
_FIGURES = ("log_likelihood", "aic", "bic", "icl")


class _Whole(Protocol):
    """What has figures."""

    @property
    def n_parameters(self) -> int: ...
    def log_likelihood(self) -> float: ...
    def aic(self) -> float: ...
    def bic(self) -> float: ...
    def icl(self) -> float: ...


def with_atoms(experts: xr.Dataset, gates: xr.Dataset, atoms: tuple[float, ...], what: str) -> xr.Dataset:
    """Variables of the experts' parameters beside those of the atoms' log-odds."""
    if gates.sizes[EXPERT] > 1:
        raise InvalidDataError(
            f"{what}: expected one model of the atoms, got a weighted average; use model.atom_gates.{what}."
        )
    own = gates[["intercept", COEF]].isel({EXPERT: 0, CLASS: slice(1, None)}, drop=True)
    if GATE_FEATURE in experts.dims and FEATURE in own.dims:
        own = own.rename({FEATURE: GATE_FEATURE})
    own = own.drop_vars(CLASS, errors="ignore").rename({CLASS: _ATOM}).assign_coords({_ATOM: list(atoms)})
    renamed = own.rename({name: f"{_ATOM}_{name}" for name in own.data_vars})
    return experts.assign(renamed.data_vars)


def figures_of(model: _Whole) -> dict[str, float]:
    """Figures of both models together, of those that they know."""
    found: dict[str, float] = {"n_parameters": model.n_parameters}
    for name in _FIGURES:
        try:
            found[name] = float(getattr(model, name)())
        except InvalidDataError:
            continue
    return found


def joined_tables(
    experts: xr.Dataset, gates: xr.Dataset, figures: dict[str, float], atoms: tuple[float, ...]
) -> xr.Dataset:
    """The tables of both, with figures of the whole in the place of those of the experts."""
    known = experts.drop_vars(_FIGURES, errors="ignore")
    whole = {
        name: ((), value, experts[name].attrs if name in experts else {}) for name, value in figures.items()
    }
    return (
        known.merge(prefixed(gates, GATES), combine_attrs="override").assign(whole).assign_attrs(atoms=atoms)
    )


def joined_summary(title: str, figures: dict[str, float], experts: Summary, gates: Summary) -> Summary:
    """The summaries of both, below the figures of the whole."""
    lines = [title.strip("<>"), *(f"{name:<15}{value:.6g}" for name, value in figures.items())]
    parts = ["\n".join(lines), f"at no atom\n\n{experts}", f"which atom, if any\n\n{gates}"]
    return Summary("\n\n".join(parts))


def joined_html(
    title: str, figures: dict[str, float], experts: MixtureOfExperts, gates: MixtureOfExperts
) -> str:
    """The cards of both, below the figures of the whole."""
    told = {name: f"{value:.6g}" for name, value in figures.items()}
    head = card_of(title.strip("<>"), rows_of_facts(told))
    return f"<div>{head}{experts._repr_html_()}{gates._repr_html_()}</div>"
