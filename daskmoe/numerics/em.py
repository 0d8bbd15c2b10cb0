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

from daskmoe.numerics.coordinates import Block
from daskmoe.numerics.packed import packed_size, pairwise_products, unpack
from daskmoe.numerics.parameters import FloatArray
from daskmoe.numerics.priors import Prior

Array = NDArray[np.floating[Any]]

# In squared standardized units of the response: below it a density is a spike of rounding errors.
VARIANCE_FLOOR = 1e-14


class Runs(NamedTuple):
    """R models fitted side by side: ``gate`` (R, K, q), ``coef`` (R, K, q), ``variance`` (R, K)."""

    gate: Array
    coef: Array
    variance: Array

    def take(self, index: NDArray[np.intp] | slice) -> Runs:
        """Some of the runs."""
        return Runs(self.gate[index], self.coef[index], self.variance[index])


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


class Posterior(NamedTuple):
    """E-step of a block: log f (R, B); gates, responsibilities and residuals (R, K, B)."""

    log_density: Array
    gates: Array
    responsibilities: Array
    residuals: Array


def e_step(runs: Runs, block: Block) -> Posterior:
    """Gates, responsibilities and log f(y|x) of a block, by two shifted exponentials a row and expert."""
    n_experts, q = runs.gate.shape[1:]
    dtype = block.design.dtype
    models = np.concatenate([runs.gate, runs.coef], axis=1).astype(dtype, copy=False)
    linear = (models.reshape(-1, q) @ block.design).reshape(*models.shape[:2], -1)
    gates, residuals = linear[:, :n_experts], linear[:, n_experts:]
    np.subtract(block.response, residuals, out=residuals)
    gates -= gates.max(axis=1, keepdims=True)
    joint = np.square(residuals)
    joint *= (-0.5 / runs.variance)[..., None].astype(dtype, copy=False)
    joint += gates
    joint -= (0.5 * np.log(2 * np.pi * runs.variance))[..., None].astype(dtype, copy=False)
    gates = np.exp(gates, out=gates)
    gate_sum = gates.sum(axis=1, keepdims=True)
    gates /= gate_sum
    top = joint.max(axis=1, keepdims=True)
    joint -= top
    np.exp(joint, out=joint)
    joint_sum = joint.sum(axis=1, keepdims=True)
    joint /= joint_sum
    # Both sums lie in [1, K].
    log_density = np.log(joint_sum[:, 0] / gate_sum[:, 0]) + top[:, 0]
    return Posterior(log_density, gates, joint, residuals)


def em_statistics(runs: Runs, blocks: Iterable[Block]) -> EMStatistics:
    """All statistics of one EM pass over ``blocks``."""
    n_runs, n_experts, q = runs.gate.shape
    n_weights = n_experts + n_experts * (n_experts - 1) // 2
    packed = np.zeros((packed_size(q), n_runs * n_weights))
    linear = np.zeros((n_runs, 2 * n_experts, q))
    log_likelihood = np.zeros(n_runs)
    sums = np.zeros((n_runs, 2, n_experts))
    buffers = Buffers()
    for block in blocks:
        state, width = e_step(runs, block), block.response.size
        tau, gates = state.responsibilities, state.gates
        gradient = buffers.get("linear", (n_runs, 2 * n_experts, width), tau.dtype)
        np.subtract(tau, gates, out=gradient[:, n_experts:])
        if block.weight is None:
            log_likelihood += state.log_density.sum(axis=1, dtype=np.float64)
        else:
            tau *= block.weight
            gradient[:, n_experts:] *= block.weight
            log_likelihood += state.log_density @ block.weight
        np.multiply(tau, state.residuals, out=gradient[:, :n_experts])
        sums[:, 0] += tau.sum(axis=2, dtype=np.float64)
        sums[:, 1] += np.einsum("rkb,rkb->rk", gradient[:, :n_experts], state.residuals)
        linear += (gradient.reshape(-1, width) @ block.design.T).reshape(linear.shape)
        weights = buffers.get("weights", (n_runs, n_weights, width), np.float32)
        _gram_weights(tau, gates, block.weight, weights)
        products = buffers.get("products", (packed_size(q), width), np.float32)
        pairwise_products(block.design.astype(np.float32, copy=False), products)
        packed += products @ weights.reshape(-1, width).T
    grams = unpack(packed.T.reshape(n_runs, n_weights, -1))
    return EMStatistics(
        log_likelihood,
        sums[:, 0],
        sums[:, 1],
        linear[:, :n_experts],
        linear[:, n_experts:],
        grams[:, :n_experts],
        _gate_blocks(grams[:, n_experts:], n_experts),
    )


class Buffers:
    """Arrays kept from one block to the next; a smaller last block gets a contiguous one of its own."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this shape, its values undefined."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape:
            array = self._arrays[name] = np.empty(shape, dtype=dtype)
        return array


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
    rows, columns = np.triu_indices(free)
    out[:, rows, columns] = -pairs
    out[:, columns, rows] = -pairs
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


def em(runs: Runs, blocks: list[Block], prior: Prior, passes: int) -> tuple[Runs, Array, Array]:
    """``passes`` safeguarded EM passes for all runs; also their objectives and log-likelihoods.

    A run whose objective would fall goes back and repeats its gate step with more damping.
    """
    damping = np.zeros(len(runs.gate))
    statistics = em_statistics(runs, blocks)
    objective = statistics.log_likelihood - prior.penalty(*runs)
    for _ in range(passes):
        trial = m_step(runs, statistics, prior, damping)
        # Where damped gates fall again, an expert's Gram matrix is short of digits: all of the step shrinks.
        share = np.minimum(1.0, 2.0 / (1.0 + damping))
        trial = Runs(*(a + _rows(share, b) * (b - a) for a, b in zip(runs, trial, strict=True)))
        trial_statistics = em_statistics(trial, blocks)
        trial_objective = trial_statistics.log_likelihood - prior.penalty(*trial)
        rises = trial_objective >= objective
        damping = np.where(rises, damping / 4, np.maximum(4 * damping, 1.0))
        runs = Runs(*(_choose(rises, a, b) for a, b in zip(trial, runs, strict=True)))
        pairs = zip(trial_statistics, statistics, strict=True)
        statistics = EMStatistics(*(_choose(rises, a, b) for a, b in pairs))
        objective = np.where(rises, trial_objective, objective)
    return runs, objective, statistics.log_likelihood


def _choose(rises: NDArray[np.bool_], new: Array, old: Array) -> Array:
    return np.where(_rows(rises, new), new, old)


def _rows(values: NDArray[Any], like: Array) -> NDArray[Any]:
    """One value a run, to be broadcast against ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
