"""Evaluating a given mixture of experts on rows: gates, densities, responsibilities, means.

Pure NumPy/SciPy. Rows come as ``features`` of shape (n, p); results have the expert axis first, (K, n).
Responses are (n,), of several outputs (n, O). Callers that hold many rows pass them in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray, LargeMoE, Mixture
from daskmoe.numerics.families import Family

BLOCK_ROWS = 16_384
# Experts from which on a block has fewer rows.
_MANY_EXPERTS = 32

Features = NDArray[np.floating[Any]]


def row_blocks(n_rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` rows that cover ``n_rows``."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def block_rows(n_experts: int) -> int:
    """Rows of a block that keep arrays (K, rows) small, whatever K is."""
    return max(1, BLOCK_ROWS * _MANY_EXPERTS // max(n_experts, _MANY_EXPERTS))


def linear_predictor(weights: FloatArray, features: Features) -> FloatArray:
    """weights @ [1, x] for every row: (..., q) and (n, p) give (..., n)."""
    flat = weights.reshape(-1, weights.shape[-1])
    out: FloatArray = flat[:, 1:] @ np.asarray(features, dtype=np.float64).T
    out += flat[:, :1]
    return out.reshape(*weights.shape[:-1], out.shape[-1])


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log of the softmax over the expert axis (the first)."""
    out: FloatArray = logits - scipy.special.logsumexp(logits, axis=0)
    return out


def log_gating(parameters: Mixture, features: Features) -> FloatArray:
    """log pi_k(x), shape (K, n); of the large MoE, those of the partitions times their weights."""
    if isinstance(parameters, LargeMoE):
        return large_as_mixture(parameters, features)
    return log_softmax(linear_predictor(parameters.gate, features))


def expert_means(parameters: Mixture, family: Family, features: Features) -> FloatArray:
    """E[y|x, expert k], shape (K, n)."""
    return np.asarray(family.mean(linear_predictor(parameters.coef, features), parameters.nuisance))


def log_joint(parameters: Mixture, family: Family, features: Features, response: FloatArray) -> FloatArray:
    """log pi_k(x) + log phi_k(y|x), shape (K, n)."""
    eta = linear_predictor(parameters.coef, features)
    density = family.log_density(np.asarray(response, dtype=np.float64).T, eta, parameters.nuisance)
    return np.asarray(log_gating(parameters, features) + density)


def log_density(parameters: Mixture, family: Family, features: Features, response: FloatArray) -> FloatArray:
    """log f(y|x) = log sum_k pi_k(x) phi_k(y|x), shape (n,)."""
    return np.asarray(scipy.special.logsumexp(log_joint(parameters, family, features, response), axis=0))


def responsibilities(
    parameters: Mixture, family: Family, features: Features, response: FloatArray
) -> FloatArray:
    """tau_k = P(expert k | x, y), shape (K, n); columns sum to one."""
    return np.exp(log_softmax(log_joint(parameters, family, features, response)))


def mixture_mean(parameters: Mixture, family: Family, features: Features) -> FloatArray:
    """E[y|x] = sum_k pi_k(x) E[y|x, expert k], shape (n,)."""
    gates = np.exp(log_gating(parameters, features))
    return np.asarray(np.sum(gates * expert_means(parameters, family, features), axis=0))


def class_probabilities(parameters: Mixture, family: Family, features: Features) -> FloatArray:
    """P(y = j|x) = sum_k pi_k(x) P_k(y = j|x) of a nominal family, shape (J, n)."""
    gates = np.exp(log_gating(parameters, features))
    each = family.class_probabilities(linear_predictor(parameters.coef, features))
    return np.asarray(np.einsum("kn,kjn->jn", gates, each))


def mixture_cdf(parameters: Mixture, family: Family, features: Features, response: FloatArray) -> FloatArray:
    """F(y|x) = sum_k pi_k(x) F_k(y|x), shape (n,)."""
    gates = np.exp(log_gating(parameters, features))
    eta = linear_predictor(parameters.coef, features)
    return np.asarray((gates * family.cdf(response, eta, parameters.nuisance)).sum(axis=0))


def log_likelihood(
    parameters: Mixture,
    family: Family,
    features: Features,
    response: FloatArray,
    weight: FloatArray | None = None,
) -> float:
    """Sum over rows of (weighted) log f(y|x), streamed in blocks."""
    total = 0.0
    for rows in row_blocks(len(response), block_rows(parameters.n_experts)):
        values = log_density(parameters, family, features[rows], response[rows])
        total += float(np.sum(values) if weight is None else weight[rows] @ values)
    return total


def large_as_mixture(large: LargeMoE, features: Features) -> FloatArray:
    """log PI_l(x) = log lambda_m + log pi_l^(m)(x) of the large MoE, shape (L, n)."""
    logits = linear_predictor(large.gate, features)
    stops = np.cumsum(large.sizes)
    log_weights = np.log(large.weights)
    for m, (stop, size) in enumerate(zip(stops, large.sizes, strict=True)):
        part = slice(stop - size, stop)
        logits[part] = log_softmax(logits[part]) + log_weights[m]
    return logits
