"""A step of EM from summed likelihood statistics, in which experts move as far as their maxima are.

Pure NumPy.
"""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import solve
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.families import Family
from daskmoe.numerics.families.protocol import Change
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.local.levenberg import RIDGE
from daskmoe.numerics.local.newton import NewtonState


def em_step(
    state: NewtonState, prior: Prior, damping: float, family: Family, *, bounded: bool = False
) -> tuple[FloatArray, float]:
    """A step of EM with the gain of its lower bound; the gates' own step is divided by ``damping``.

    That is a Newton step or, where it is ``bounded``, one in a metric that their information never exceeds
    (Boehning, 1992), and cannot fall. Coefficients and nuisances are conditional maxima, however far they
    are, where the family's are exact.
    """
    parameters, layout = state.parameters, Layout.of(state.parameters)
    gradient, complete = state.statistics.gradient, state.statistics.complete
    step = np.zeros(layout.size)
    gates = layout.gates
    own_gates = complete[gates, gates]
    if bounded:
        own_gates = own_gates + _gate_bound(layout, prior, state.statistics.weight)
    if gates.stop:
        step[gates] = solve(own_gates, gradient[gates], *RIDGE) / damping
    gain = float(gradient[gates] @ step[gates] - 0.5 * step[gates] @ own_gates @ step[gates])
    shrinkage, stiffness = prior.coef_gradient(parameters.coef), prior.coef_hessian(layout.n_predictors)
    for k in range(layout.n_experts):
        rows, own = layout.coef(k), layout.nuisance(k)
        move = step[rows] = solve(complete[rows, rows], gradient[rows], *RIDGE)
        gram = complete[rows, rows] - stiffness
        pull = shrinkage[k].ravel()
        change = _change(move, gradient[rows] + pull, gram, layout, by_predictor=family.by_predictor)
        found = family.expert_step(gradient[own], complete[own, own], change, parameters.nuisance[k], prior)
        step[own] = found.nuisance
        # The family's gain is that of the rows and of the nuisances' prior.
        gain += found.gain - float(pull @ move + 0.5 * move @ stiffness @ move)
    return step, gain


def _change(
    move: FloatArray, slope: FloatArray, gram: FloatArray, layout: Layout, *, by_predictor: bool
) -> Change:
    """How an expert's sum of squares over the dispersion changes; each predictor's, where nuisances are."""
    if not by_predictor:
        return Change(np.asarray(2.0 * move @ slope), np.asarray(move @ gram @ move))
    parts = (layout.n_predictors, -1)
    falls, rises = 2.0 * move * slope, move * (gram @ move)
    return Change(falls.reshape(parts).sum(axis=1), rises.reshape(parts).sum(axis=1))


def _gate_bound(layout: Layout, prior: Prior, weight: float) -> FloatArray:
    """What no information of the gates of all rows exceeds, whatever the gates."""
    free = layout.n_experts - 1
    share = 0.5 * (np.eye(free) - 1.0 / layout.n_experts)
    return np.asarray(np.kron(share, weight * prior.gate_metric), dtype=np.float64)
