"""Log-likelihood of all rows with its gradient and observed information, summed in one pass over blocks.

Pure NumPy, in the coordinates of `coordinates`. A row's log-likelihood is log sum_k exp(l_k) with
l_k = log pi_k + log phi_k. Write u for [1, features], tau_k for the responsibilities, s_k and t_k for the
derivatives of log phi_k in the linear predictor and in the log-variance. The observed information of a row is

    z z' - sum_k tau_k v_k v_k' + terms of the second derivatives of l_k,

where z stacks (tau_k) for the gates, (tau_k s_k) for the coefficients and (tau_k t_k) for the log-variances,
and v_k = (1, s_k, t_k) (Louis, 1982, equation 3.2, for this model). Every entry is a row weight times u u', u
or one, so the sums are matrix products (`row_sums`). Parameters are ordered gate (K - 1, q), coef (K, q),
log-variance (K,); P = (2 K - 1) q + K.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.row_sums import RowSums


class LikelihoodStatistics(NamedTuple):
    """Sums over rows.

    Attributes
    ----------
    value : float
        The log-likelihood.
    gradient : ndarray of shape (P,)
    information : ndarray of shape (P, P)
        Observed information: minus the Hessian.
    complete : ndarray of shape (P, P)
        Information of the complete data, experts known: positive semi-definite, the metric of an EM step.
    weight : float
        Sum of the row weights.
    mass : ndarray of shape (K,) or None
        Sum of the responsibilities of each expert; None where no rows were summed.
    scores : ndarray of shape (P, P) or None
        Sum of the outer products of the rows' scores; a row of weight w counts w times, as if repeated.
    """

    value: float
    gradient: FloatArray
    information: FloatArray
    complete: FloatArray
    weight: float
    mass: FloatArray | None = None
    scores: FloatArray | None = None


def scaled(statistics: LikelihoodStatistics, weight: float) -> LikelihoodStatistics:
    """The matrices of some rows as if they weighed ``weight`` in all."""
    share = weight / statistics.weight
    return statistics._replace(
        information=share * statistics.information, complete=share * statistics.complete, weight=weight
    )


def pack_parameters(parameters: MoEParameters) -> FloatArray:
    """The vector of free parameters, shape (P,): gates without the reference, coefficients, log-variances."""
    parts = (parameters.gate[:-1].ravel(), parameters.coef.ravel(), np.log(parameters.dispersion))
    return np.concatenate(parts)


def unpack_parameters(theta: FloatArray, n_experts: int) -> MoEParameters:
    """Parameters from their vector; the inverse of `pack_parameters`."""
    q = (len(theta) - n_experts) // (2 * n_experts - 1)
    gate = np.zeros((n_experts, q))
    split = (n_experts - 1) * q
    gate[:-1] = theta[:split].reshape(n_experts - 1, q)
    coef = theta[split:-n_experts].reshape(n_experts, q).copy()
    return MoEParameters(gate, coef, np.exp(theta[-n_experts:]))


def is_model(theta: FloatArray, n_experts: int) -> bool:
    """Whether a vector is that of a model: finite, its variances numbers above zero."""
    with np.errstate(over="ignore"):
        variance = np.exp(theta[-n_experts:])
    return bool(np.isfinite(theta).all() and np.isfinite(variance).all() and variance.min() > 0.0)


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def log_likelihood_of(parameters: MoEParameters, blocks: Iterable[Block]) -> float:
    """The log-likelihood alone: an E-step without statistics."""
    runs = Runs(*(array[None] for array in parameters))
    total, e_step = 0.0, EStep(runs)
    for block in blocks:
        values = e_step(block).log_density[0]
        total += float(values.sum(dtype=np.float64) if block.weight is None else values @ block.weight)
    return total


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def likelihood_statistics(
    parameters: MoEParameters,
    blocks: Iterable[Block],
    *,
    precision: type = np.float64,
    second_order: bool = True,
    scores: bool = False,
) -> LikelihoodStatistics:
    """Value, gradient and observed information; ``precision`` is that of the matrices' products.

    Single precision is enough where the information only scales a step: it does not move the optimum, and
    standard errors are not known to seven digits. Without ``second_order`` the information is zero and a pass
    takes a quarter of the time; ``scores`` asks for their products.
    """
    runs = Runs(*(array[None] for array in parameters))
    sums = RowSums(runs, precision, second_order=second_order, scores=scores)
    for block in blocks:
        sums.add(block)
    information, complete = sums.information()
    products = sums.score_products() if scores else None
    return LikelihoodStatistics(
        sums.value, sums.gradient(), information, complete, sums.weight, sums.mass, products
    )


def penalized(
    statistics: LikelihoodStatistics, parameters: MoEParameters, prior: Prior
) -> LikelihoodStatistics:
    """The same statistics with the prior's penalty taken off: the maximized objective."""
    n_experts, q = parameters.gate.shape
    split, size = (n_experts - 1) * q, (2 * n_experts - 1) * q
    ratio = prior.spread / parameters.dispersion
    gradient = statistics.gradient.copy()
    gradient[:split] -= prior.gate_gradient(parameters.gate)[:-1].ravel()
    gradient[split:size] -= prior.coef_gradient(parameters.coef).ravel()
    gradient[size:] -= 0.5 * prior.variance * (1.0 - ratio)
    curvature = np.zeros_like(statistics.information)
    gates = prior.gate_hessian(n_experts).transpose(0, 2, 1, 3)
    curvature[:split, :split] = gates.reshape(split, split)
    for k in range(n_experts):
        rows = slice(split + k * q, split + (k + 1) * q)
        curvature[rows, rows] = prior.coef_hessian()
    diagonal = np.arange(size, size + n_experts)
    curvature[diagonal, diagonal] = 0.5 * prior.variance * ratio
    return statistics._replace(
        value=statistics.value - float(prior.penalty(*parameters)),
        gradient=gradient,
        information=statistics.information + curvature,
        complete=statistics.complete + curvature,
    )
