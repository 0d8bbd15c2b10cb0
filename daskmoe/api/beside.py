"""Fits whose target may have atoms: the gates of the atoms are one fit then, the experts another."""

from __future__ import annotations

from typing import cast

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.api.hooks import HOOKS
from daskmoe.engine import FitRequest, build_model, of_presence, run, run_here
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms

Model = MixtureOfExperts | MixtureWithAtoms


def fit_request(request: FitRequest) -> Model:
    """The model of a request; of the rows at atoms, if there are any, the gates first."""
    if not request.schema.atoms:
        return run(request, HOOKS)
    gates = run(of_presence(request), HOOKS)
    return MixtureWithAtoms(gates, run(request, HOOKS))


def fit_request_here(request: FitRequest) -> Model:
    """The same in this thread, without a graph."""
    if not request.schema.atoms:
        return run_here(request, HOOKS)
    gates = run_here(of_presence(request), HOOKS)
    return MixtureWithAtoms(gates, run_here(request, HOOKS))


def delayed_request(request: FitRequest) -> Delayed:
    """The same, delayed."""
    if not request.schema.atoms:
        return build_model(request, HOOKS)
    gates, experts = build_model(of_presence(request), HOOKS), build_model(request, HOOKS)
    join = delayed(MixtureWithAtoms, pure=False, traverse=False)
    key = f"moe-beside-{tokenize(gates.key, experts.key)}"
    return cast(Delayed, join(gates, experts, dask_key_name=key))


def experts_of(model: Model) -> MixtureOfExperts:
    """The mixture itself, of a model beside atoms that of its experts."""
    return model.experts if isinstance(model, MixtureWithAtoms) else model
