"""One EM pass over all rows, for several models at once.

Pure NumPy, in the coordinates of `coordinates`. With responsibilities tau, gates pi, and working residuals
r_k and weights w_k of the experts (`families.protocol`), the M-step needs sum tau_k w_k u u', sum tau_k r_k u
and the family's own sums for expert k, and for one Newton step of the gating network sum (tau_k - pi_k) u and
sum pi_k (1[k = l] - pi_l) u u'. Gram matrices only precondition steps, so they are formed in single
precision; everything that decides where the optimum is (log-likelihood, gradients, residual sums) is
accumulated in double precision. Shapes: R runs, K experts, C predictors, D nuisances, q = r + 1
(q_gate where they are the gates'), B rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.linalg import solve
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.packed import GramSums, packed_rows, packed_size, unpack
from daskmoe.numerics.families import Family
from daskmoe.numerics.families.protocol import Change, WorkingRows
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior

Array = NDArray[np.floating[Any]]

# Of the mean curvature: Gram matrices in single precision can be so far from definite.
_RIDGE = 1e-7


class EMStatistics(NamedTuple):
    """Sums over rows at given parameters."""

    # (R,)
    log_likelihood: Array
    # (R, K): Sum of tau_k.
    mass: Array
    # (R, K, D): The family's own sums.
    nuisance: Array
    # (R, K, C, q) and (R, K, q_gate): Sums of tau_k r_k u and of (tau_k - pi_k) u.
    expert_moment: Array
    gate_gradient: Array
    # (R, K, C q, C q): Sum of tau_k w_k u u'.
    expert_gram: Array
    # (R, K - 1, K - 1, q_gate, q_gate): Sum of pi_k (1[k = l] - pi_l) u u'.
    gate_information: Array


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def em_statistics(runs: Runs, blocks: Iterable[Block], family: Family) -> EMStatistics:
    """All statistics of one EM pass over ``blocks``."""
    n_runs, n_experts, n_predictors, _ = runs.coef.shape
    n_linear = n_experts * n_predictors
    grams = _Grams(runs)
    moment, gate_gradient = np.zeros(runs.coef.shape), np.zeros(runs.gate.shape)
    log_likelihood, mass = np.zeros(n_runs), np.zeros((n_runs, n_experts))
    sums = np.zeros(runs.nuisance.shape)
    e_step, buffers = EStep(runs, family), Buffers()
    for block in blocks:
        state, width = e_step(block), block.width
        tau, gates = state.responsibilities, state.gates
        gradient = buffers.get("gradient", (n_runs, n_linear + n_experts, width))
        np.subtract(tau, gates, out=gradient[:, n_linear:])
        if block.weight is None:
            log_likelihood += state.log_density.sum(axis=1)
        else:
            tau = np.multiply(tau, block.weight, out=buffers.get("tau", tau.shape))
            gradient[:, n_linear:] *= block.weight
            log_likelihood += state.log_density @ block.weight
        residuals = buffers.get("residuals", state.eta.shape)
        own_weight = family.working(block.response, state.eta, runs.nuisance, residuals)
        weighted = gradient[:, :n_linear].reshape(residuals.shape)
        np.multiply(tau[:, :, None], residuals, out=weighted)
        mass += tau.sum(axis=2)
        rows = WorkingRows(block.response, state.eta, runs.nuisance, tau, residuals, weighted)
        sums += family.nuisance_sums(rows)
        own_products, gate_products = _products(gradient, block, n_linear)
        moment += own_products.reshape(moment.shape)
        gate_gradient += gate_products
        own, free = grams.weights(block)
        _own_weights(tau, own_weight, n_predictors, own)
        _gate_weights(gates, block.weight, free)
        grams.add(block)
    own, free = grams.matrices()
    return EMStatistics(
        log_likelihood,
        mass,
        sums,
        moment,
        gate_gradient,
        _expert_grams(own, n_experts, n_predictors),
        _gate_blocks(free, n_experts),
    )


def _products(gradient: Array, block: Block, n_linear: int) -> tuple[Array, Array]:
    """Sums of u times the experts' and the gates' vectors, stacked in ``gradient`` (R, n, B)."""
    if block.gating is None:
        flat = gradient.reshape(-1, gradient.shape[-1]) @ block.design.T
        both = flat.reshape(*gradient.shape[:2], -1)
        return both[:, :n_linear], both[:, n_linear:]
    return gradient[:, :n_linear] @ block.design.T, gradient[:, n_linear:] @ block.gating.T


class _Grams:
    """Gram matrices of the experts and of the gates of several runs, at once where rows are the same."""

    def __init__(self, runs: Runs) -> None:
        self._n_runs, n_experts, n_predictors, self._q = runs.coef.shape
        self._q_gate = runs.gate.shape[-1]
        self._n_own = n_experts * packed_size(n_predictors)
        self._n_free = packed_size(n_experts - 1)
        self._sums: list[GramSums] = []
        self._weights: list[Array] = []

    def weights(self, block: Block) -> tuple[Array, Array]:
        """Arrays (R, n, B) for the experts' and for the gates' weights of a block."""
        sizes = [self._n_own + self._n_free]
        if block.gating is not None:
            sizes = [self._n_own, self._n_free]
        if not self._sums:
            lengths = (self._q, self._q_gate)
            self._sums = [GramSums(q, self._n_runs * size) for q, size in zip(lengths, sizes, strict=False)]
        width = block.width
        self._weights = [sums.empty_weights(width) for sums in self._sums]
        own, *others = (
            weights[: self._n_runs * size].reshape(self._n_runs, size, width)
            for weights, size in zip(self._weights, sizes, strict=True)
        )
        return (own, others[0]) if others else (own[:, : self._n_own], own[:, self._n_own :])

    def add(self, block: Block) -> None:
        """Add a block, whose weights have been filled."""
        designs = (block.design, block.gate_design)
        for sums, design, weights in zip(self._sums, designs, self._weights, strict=False):
            sums.add(design, weights)

    def matrices(self) -> tuple[Array, Array]:
        """The experts' (R, n, q, q), and the gates' packed pairs."""
        own, *others = (unpack(sums.packed) for sums in self._sums)
        own = own.reshape(self._n_runs, -1, *own.shape[1:])
        if not others:
            return own[:, : self._n_own], own[:, self._n_own :]
        return own, others[0].reshape(self._n_runs, -1, *others[0].shape[1:])


def _own_weights(tau: Array, weight: Array | None, n_predictors: int, out: Array) -> None:
    """Row weights of the experts' Gram matrices: tau_k w_k for every pair of predictors."""
    pairs = out.reshape(*tau.shape[:2], packed_size(n_predictors), tau.shape[2])
    if weight is not None:
        np.multiply(tau[:, :, None], weight, out=pairs, casting="same_kind")
        return
    if n_predictors > 1:
        pairs[:] = 0.0
    for row in packed_rows(n_predictors):
        pairs[:, :, row.start] = tau


def _gate_weights(gates: Array, weight: Array | None, out: Array) -> None:
    """Row weights of the gates' information, negated: pi_k (pi_l - 1[k = l]) for k <= l < K - 1."""
    n_experts = gates.shape[1]
    free = gates[:, :-1].astype(np.float32)
    weighted = free if weight is None else free * weight.astype(np.float32)
    start = 0
    for k in range(n_experts - 1):
        stop = start + n_experts - 1 - k
        np.multiply(free[:, k : k + 1], weighted[:, k:], out=out[:, start:stop])
        out[:, start] -= weighted[:, k]
        start = stop


def _expert_grams(pairs: Array, n_experts: int, n_predictors: int) -> Array:
    """(R, K, C q, C q) Gram matrices from the blocks (R, K CC, q, q) of pairs of predictors."""
    n_runs, q = len(pairs), pairs.shape[-1]
    if n_predictors == 1:
        return pairs
    blocks = pairs.reshape(n_runs, n_experts, -1, q, q)
    out = np.empty((n_runs, n_experts, n_predictors, q, n_predictors, q), dtype=pairs.dtype)
    for pair, (row, column) in enumerate(zip(*np.triu_indices(n_predictors), strict=True)):
        out[:, :, row, :, column] = out[:, :, column, :, row] = blocks[:, :, pair]
    return out.reshape(n_runs, n_experts, n_predictors * q, n_predictors * q)


def _gate_blocks(pairs: Array, n_experts: int) -> Array:
    """(R, K - 1, K - 1, q, q) information from the negated packed pairs (R, K (K - 1) / 2, q, q)."""
    free = n_experts - 1
    out = np.empty((pairs.shape[0], free, free, *pairs.shape[2:]), dtype=pairs.dtype)
    for pair, (row, column) in enumerate(zip(*np.triu_indices(free), strict=True)):
        np.negative(pairs[:, pair], out=out[:, row, column])
        if row != column:
            out[:, column, row] = out[:, row, column]
    return out


def m_step(runs: Runs, statistics: EMStatistics, prior: Prior, damping: Array, family: Family) -> Runs:
    """Maximize the expected penalized complete-data log-likelihood from the statistics of one pass.

    Coefficients take one (reweighted) least-squares step, exact where working weights are one; then the
    nuisances, given it. The gating network takes one Newton step whose information is multiplied by
    ``1 + damping`` (R,).
    """
    n_runs, n_experts, n_predictors, _ = runs.coef.shape
    dispersion = family.dispersion(runs.nuisance)[..., None]
    gram, shape = statistics.expert_gram, (n_runs, n_experts, -1)
    moment = statistics.expert_moment.reshape(shape)
    step = solve(
        gram / dispersion[..., None] + prior.coef_hessian(n_predictors),
        moment / dispersion - prior.coef_gradient(runs.coef).reshape(shape),
        _RIDGE,
    )
    change = _change(step, moment, gram, n_predictors if family.by_predictor else None)
    return Runs(
        runs.gate + _gate_step(runs, statistics, prior, damping),
        runs.coef + step.reshape(runs.coef.shape),
        family.update_nuisance(runs.nuisance, statistics.mass, statistics.nuisance, change, prior),
    )


def _change(step: Array, moment: Array, gram: Array, n_parts: int | None) -> Change:
    """How sums of squared working residuals change; of predictors with nuisances of their own, each one's."""
    if n_parts is None:
        return Change(np.sum(step * (2 * moment), axis=-1), np.einsum("rki,rkij,rkj->rk", step, gram, step))
    parts = (*step.shape[:2], n_parts, -1)
    falls = np.sum((step * (2 * moment)).reshape(parts), axis=-1)
    return Change(falls, np.sum((step * np.einsum("rkij,rkj->rki", gram, step)).reshape(parts), axis=-1))


def _gate_step(runs: Runs, statistics: EMStatistics, prior: Prior, damping: Array) -> Array:
    n_runs, n_experts, q = runs.gate.shape
    out = np.zeros_like(runs.gate)
    if n_experts == 1:
        return out
    size = (n_experts - 1) * q
    information = statistics.gate_information.astype(np.float64)
    information *= (1.0 + damping)[:, None, None, None, None]
    information += prior.gate_majorizer(runs.gate)
    gradient = (statistics.gate_gradient - prior.gate_gradient(runs.gate))[:, :-1]
    matrix = information.transpose(0, 1, 3, 2, 4).reshape(n_runs, size, size)
    step = solve(matrix, gradient.reshape(n_runs, size), _RIDGE)
    out[:, :-1] = step.reshape(n_runs, n_experts - 1, q)
    return out


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


def start_em(runs: Runs, blocks: list[Block], prior: Prior, family: Family) -> EMState:
    """The state at given models: one pass."""
    statistics = em_statistics(runs, blocks, family)
    objective = statistics.log_likelihood - prior.penalty(*runs)
    return EMState(runs, statistics, objective, np.zeros(len(objective)))


def em(state: EMState, blocks: list[Block], prior: Prior, passes: int, family: Family) -> EMState:
    """``passes`` safeguarded EM passes for all runs.

    A run whose objective would fall goes back and repeats its gate step with more damping.
    """
    for _ in range(passes):
        runs, damping = state.runs, state.damping
        trial = m_step(runs, state.statistics, prior, damping, family)
        # Falls under damped gates mean that an expert's Gram matrix lacks digits: shorten the whole step.
        share = np.minimum(1.0, 2.0 / (1.0 + damping))
        trial = Runs(*(a + _along_runs(share, b) * (b - a) for a, b in zip(runs, trial, strict=True)))
        after = start_em(trial, blocks, prior, family)
        rises = after.objective >= state.objective
        damping = np.where(rises, damping / 4, np.maximum(4 * damping, 1.0))
        state = (after if rises.all() else _choose(rises, after, state))._replace(damping=damping)
    return state


def _choose(rises: NDArray[np.bool_], new: EMState, old: EMState) -> EMState:
    """The new runs where they rise, the old ones elsewhere."""

    def choose(first: Array, second: Array) -> Array:
        return np.where(_along_runs(rises, first), first, second)

    return EMState(
        Runs(*map(choose, new.runs, old.runs)),
        EMStatistics(*map(choose, new.statistics, old.statistics)),
        choose(new.objective, old.objective),
        old.damping,
    )


def _along_runs(values: NDArray[Any], like: Array) -> NDArray[Any]:
    """One value a run, to be broadcast against ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
