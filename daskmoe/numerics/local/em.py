"""One EM pass over all rows, for several models at once.

Pure NumPy, in the coordinates of `coordinates`. With responsibilities tau and gates pi, the M-step needs
sum tau_k u u', sum tau_k r_k u and sum tau_k r_k^2 for expert k (r_k the residual), and for one Newton step
of the gating network sum (tau_k - pi_k) u and sum pi_k (1[k = l] - pi_l) u u'. Gram matrices only
precondition steps, so they are formed in single precision; everything that decides where the optimum is
(log-likelihood, gradients, residual sums) is accumulated in double precision. Shapes: R runs, K experts, q =
r + 1, B rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.packed import GramSums, unpack
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.likelihood.e_step import VARIANCE_FLOOR, EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior

Array = NDArray[np.floating[Any]]


class EMStatistics(NamedTuple):
    """Sums over rows at given parameters.

    Attributes
    ----------
    log_likelihood : ndarray of shape (R,)
    mass : ndarray of shape (R, K)
        Sum of tau_k.
    squares : ndarray of shape (R, K)
        Sum of tau_k r_k^2.
    expert_moment, gate_gradient : ndarray of shape (R, K, q)
        Sums of tau_k r_k u and of (tau_k - pi_k) u.
    expert_gram : ndarray of shape (R, K, q, q)
        Sum of tau_k u u'.
    gate_information : ndarray of shape (R, K - 1, K - 1, q, q)
        Sum of pi_k (1[k = l] - pi_l) u u'.
    """

    log_likelihood: Array
    mass: Array
    squares: Array
    expert_moment: Array
    gate_gradient: Array
    expert_gram: Array
    gate_information: Array


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def em_statistics(runs: Runs, blocks: Iterable[Block]) -> EMStatistics:
    """All statistics of one EM pass over ``blocks``."""
    n_runs, n_experts, q = runs.gate.shape
    n_weights = n_experts + n_experts * (n_experts - 1) // 2
    grams = GramSums(q, n_runs * n_weights)
    linear = np.zeros((n_runs, 2 * n_experts, q))
    log_likelihood = np.zeros(n_runs)
    sums = np.zeros((n_runs, 2, n_experts))
    e_step, buffers = EStep(runs), Buffers()
    for block in blocks:
        state, width = e_step(block), block.response.size
        tau, gates = state.responsibilities, state.gates
        gradient = buffers.get("gradient", (n_runs, 2 * n_experts, width))
        np.subtract(tau, gates, out=gradient[:, n_experts:])
        if block.weight is None:
            log_likelihood += state.log_density.sum(axis=1)
        else:
            tau *= block.weight
            gradient[:, n_experts:] *= block.weight
            log_likelihood += state.log_density @ block.weight
        np.multiply(tau, state.residuals, out=gradient[:, :n_experts])
        sums[:, 0] += tau.sum(axis=2)
        sums[:, 1] += (gradient[:, :n_experts, None] @ state.residuals[..., None])[..., 0, 0]
        linear += (gradient.reshape(-1, width) @ block.design.T).reshape(linear.shape)
        weights = grams.weights(width).reshape(n_runs, n_weights, width)
        _gram_weights(tau, gates, block.weight, weights)
        grams.add(block.design)
    matrices = unpack(grams.packed).reshape(n_runs, n_weights, q, q)
    return EMStatistics(
        log_likelihood,
        sums[:, 0],
        sums[:, 1],
        linear[:, :n_experts],
        linear[:, n_experts:],
        matrices[:, :n_experts],
        _gate_blocks(matrices[:, n_experts:], n_experts),
    )


def _gram_weights(tau: Array, gates: Array, weight: Array | None, out: Array) -> None:
    """Row weights of the Gram matrices: tau_k, then pi_k (pi_l - 1[k = l]) for k <= l < K - 1."""
    n_experts = tau.shape[1]
    out[:, :n_experts] = tau
    free = gates[:, :-1].astype(np.float32)
    weighted = free if weight is None else free * weight.astype(np.float32)
    start = n_experts
    for k in range(n_experts - 1):
        stop = start + n_experts - 1 - k
        np.multiply(free[:, k : k + 1], weighted[:, k:], out=out[:, start:stop])
        out[:, start] -= weighted[:, k]
        start = stop


def _gate_blocks(pairs: Array, n_experts: int) -> Array:
    """(R, K - 1, K - 1, q, q) information from the negated packed pairs (R, K (K - 1) / 2, q, q)."""
    free = n_experts - 1
    out = np.empty((pairs.shape[0], free, free, *pairs.shape[2:]), dtype=pairs.dtype)
    for pair, (row, column) in enumerate(zip(*np.triu_indices(free), strict=True)):
        np.negative(pairs[:, pair], out=out[:, row, column])
        if row != column:
            out[:, column, row] = out[:, row, column]
    return out


def m_step(runs: Runs, statistics: EMStatistics, prior: Prior, damping: Array) -> Runs:
    """Maximize the expected penalized complete-data log-likelihood from the statistics of one pass.

    Coefficients, then variances, are exact conditional maxima; the gating network takes one Newton step whose
    information is multiplied by ``1 + damping`` (R,).
    """
    variance = runs.variance[..., None]
    step = _solve(
        statistics.expert_gram / variance[..., None] + prior.coef_hessian(),
        statistics.expert_moment / variance - prior.coef_gradient(runs.coef),
    )
    squares = statistics.squares - np.sum(step * (2 * statistics.expert_moment), axis=-1)
    squares += np.einsum("rki,rkij,rkj->rk", step, statistics.expert_gram, step)
    new_variance = squares.clip(0.0) + prior.variance * prior.spread
    new_variance /= statistics.mass + prior.variance
    return Runs(
        runs.gate + _gate_step(runs, statistics, prior, damping),
        runs.coef + step,
        new_variance.clip(VARIANCE_FLOOR),
    )


def _gate_step(runs: Runs, statistics: EMStatistics, prior: Prior, damping: Array) -> Array:
    n_runs, n_experts, q = runs.gate.shape
    out = np.zeros_like(runs.gate)
    if n_experts == 1:
        return out
    size = (n_experts - 1) * q
    information = statistics.gate_information.astype(np.float64)
    information *= (1.0 + damping)[:, None, None, None, None]
    information += prior.gate_hessian(n_experts)
    gradient = (statistics.gate_gradient - prior.gate_gradient(runs.gate))[:, :-1]
    matrix = information.transpose(0, 1, 3, 2, 4).reshape(n_runs, size, size)
    out[:, :-1] = _solve(matrix, gradient.reshape(n_runs, size)).reshape(n_runs, n_experts - 1, q)
    return out


def _solve(matrices: Array, right: Array) -> FloatArray:
    """Solve symmetric systems; a ridge at rounding level keeps semi-definite ones solvable."""
    diagonal = np.einsum("...ii->...i", matrices := matrices.astype(np.float64))
    diagonal += 1e-7 * diagonal.mean(axis=-1, keepdims=True) + 1e-300
    return np.asarray(np.linalg.solve(matrices, right[..., None])[..., 0], dtype=np.float64)


class EMState(NamedTuple):
    """What the next pass needs of R runs: ``objective`` and ``damping`` have shape (R,)."""

    runs: Runs
    statistics: EMStatistics
    objective: Array
    damping: Array

    def take(self, index: NDArray[np.intp] | slice) -> EMState:
        """Some of the runs."""
        statistics = EMStatistics(*(array[index] for array in self.statistics))
        return EMState(self.runs.take(index), statistics, self.objective[index], self.damping[index])


def start_em(runs: Runs, blocks: list[Block], prior: Prior) -> EMState:
    """The state at given models: one pass."""
    statistics = em_statistics(runs, blocks)
    objective = statistics.log_likelihood - prior.penalty(*runs)
    return EMState(runs, statistics, objective, np.zeros(len(objective)))


def em(state: EMState, blocks: list[Block], prior: Prior, passes: int) -> EMState:
    """``passes`` safeguarded EM passes for all runs.

    A run whose objective would fall goes back and repeats its gate step with more damping.
    """
    for _ in range(passes):
        runs, damping = state.runs, state.damping
        trial = m_step(runs, state.statistics, prior, damping)
        # Where damped gates fall again, an expert's Gram matrix is short of digits: all of the step shrinks.
        share = np.minimum(1.0, 2.0 / (1.0 + damping))
        trial = Runs(*(a + _rows(share, b) * (b - a) for a, b in zip(runs, trial, strict=True)))
        after = start_em(trial, blocks, prior)
        rises = after.objective >= state.objective
        damping = np.where(rises, damping / 4, np.maximum(4 * damping, 1.0))
        state = (after if rises.all() else _choose(rises, after, state))._replace(damping=damping)
    return state


def _choose(rises: NDArray[np.bool_], new: EMState, old: EMState) -> EMState:
    """The new runs where they rise, the old ones elsewhere."""

    def choose(first: Array, second: Array) -> Array:
        return np.where(_rows(rises, first), first, second)

    return EMState(
        Runs(*map(choose, new.runs, old.runs)),
        EMStatistics(*map(choose, new.statistics, old.statistics)),
        choose(new.objective, old.objective),
        old.damping,
    )


def _rows(values: NDArray[Any], like: Array) -> NDArray[Any]:
    """One value a run, to be broadcast against ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
