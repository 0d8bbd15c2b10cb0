"""The transportation divergence of two mixtures of experts on a support.

Pure NumPy/SciPy. At a row x, mass pi_j(x) of expert j of the first is moved to the experts of the second at
the cost KL(phi_j(.|x), phi_k(.|x)). The relaxed divergence leaves open where the mass arrives, so that each
expert goes to the nearest; the exact one asks for the gates of the second as marginals, by linear programs.
"""

from __future__ import annotations

import numpy as np
import scipy

from daskmoe.numerics.base.parameters import FloatArray, Mixture, SupportSample
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import linear_predictor, log_gating, row_blocks

# Cells (expert, expert, row) of one linear program: its time grows faster than its size.
_PROGRAM_CELLS = 8_192


def relaxed_divergence(first: Mixture, second: Mixture, support: SupportSample, family: Family) -> float:
    """E_x sum_j pi_j(x) min_k KL(phi_j(.|x), phi_k(.|x))."""
    total = 0.0
    for rows in _blocks(first, second, support):
        mass, _, cost = _program(first, second, support.features[rows], family)
        total += float(np.sum(mass * cost.min(axis=1), axis=0) @ support.weight[rows])
    return total


def exact_divergence(first: Mixture, second: Mixture, support: SupportSample, family: Family) -> float:
    """E_x of the least cost of moving the gates of ``first`` at x to those of ``second``."""
    total = 0.0
    for rows in _blocks(first, second, support):
        mass, arrives, cost = _program(first, second, support.features[rows], family)
        total += float(_transport_costs(mass, arrives, cost) @ support.weight[rows])
    return total


def _blocks(first: Mixture, second: Mixture, support: SupportSample) -> list[slice]:
    size = max(1, _PROGRAM_CELLS // (first.n_experts * second.n_experts))
    return list(row_blocks(len(support.features), size))


def _program(
    first: Mixture, second: Mixture, features: FloatArray, family: Family
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mass that leaves (J, n) and arrives (K, n), and the cost (J, K, n)."""
    eta, eta_to = linear_predictor(first.coef, features), linear_predictor(second.coef, features)
    cost = family.divergence(eta[:, None], first.nuisance[:, None], eta_to, second.nuisance)
    mass, arrives = np.exp(log_gating(first, features)), np.exp(log_gating(second, features))
    return mass, arrives, np.asarray(cost)


def _transport_costs(mass: FloatArray, arrives: FloatArray, cost: FloatArray) -> FloatArray:
    """The least cost of every row, shape (n,): all rows in one sparse linear program."""
    n_from, n_to, n_rows = cost.shape
    sparse = scipy.sparse
    leaves = sparse.csr_array(sparse.kron(sparse.eye_array(n_from), np.ones((1, n_to))))
    comes = sparse.csr_array(sparse.kron(np.ones((1, n_from)), sparse.eye_array(n_to)))
    row = sparse.csr_array(sparse.vstack([leaves, comes]))
    right = np.concatenate([mass, arrives * (mass.sum(axis=0) / arrives.sum(axis=0))])
    # Costs differ by orders of magnitude between rows; scaled, all rows are solved equally well.
    scale = cost.max(axis=(0, 1))
    scale[scale == 0] = 1.0
    scaled = (cost / scale).transpose(2, 0, 1)
    # Presolve takes masses of 1e-10, as steep gates have, for a contradiction.
    found = scipy.optimize.linprog(
        scaled.ravel(),
        A_eq=sparse.block_diag([row] * n_rows, format="csr"),
        b_eq=right.T.ravel(),
        method="highs-ds",
        options={"presolve": False},
    )
    if found.x is None:
        raise ArithmeticError(f"A transport program was not solved: {found.message}")
    plan = found.x.reshape(scaled.shape)
    return np.asarray(np.sum(plan * scaled, axis=(1, 2)) * scale)
