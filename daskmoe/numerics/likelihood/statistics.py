"""Log-likelihood of all rows with its gradient and observed information, summed in one pass over blocks.

Pure NumPy, in the coordinates of `coordinates`. A row's log-likelihood is log sum_k exp(l_k) with l_k = log
pi_k + log phi_k. Write u for [1, features], tau_k for the responsibilities, s_kc and t_kd for the derivatives
of log phi_k in its linear predictors and log-nuisances. The observed information of a row is

    z z' - sum_k tau_k v_k v_k' + terms of the second derivatives of l_k,

where z stacks (tau_k) for the gates, (tau_k s_kc) for the coefficients and (tau_k t_kd) for the nuisances,
and v_k = (1, s_k, t_k) (Louis, 1982, equation 3.2, for this model). Every entry is a row weight times u u', u
or one, so the sums are matrix products (`row_sums`). Parameters are packed as `Layout` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.extremes import Extremes, merge_extremes
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block, Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.row_sums import RowSums, entropy_of_rows
from daskmoe.numerics.likelihood.scores import ClusterScores


class LikelihoodStatistics(NamedTuple):
    """Sums over rows."""

    # The log-likelihood.
    value: float
    # (P,)
    gradient: FloatArray
    # (P, P): Observed information: minus the Hessian.
    information: FloatArray
    # (P, P): Information of the complete data, experts known: positive semi-definite, the metric of an EM
    # step.
    complete: FloatArray
    # Sum of the row weights.
    weight: float
    # (K,): Sum of the responsibilities of each expert; None where no rows were summed.
    mass: FloatArray | None = None
    # Sum over rows of the entropy of their responsibilities, in nats; 0 where nobody asks.
    entropy: float = 0.0
    # (P, P): Sum of the outer products of the rows' scores; a row of weight w counts w times, as if repeated.
    scores: FloatArray | None = None
    # Beside them, of clusters of rows.
    clusters: ClusterScores | None = None
    # Of E[y|x] and of y; None where nobody asks.
    extremes: Extremes | None = None
    # (P, P): The complete data's information with heavy tails, in which lengths of steps are measured.
    metric: FloatArray | None = None

    @classmethod
    def none(cls, size: int) -> LikelihoodStatistics:
        """Those of no rows, for ``size`` parameters."""
        return cls(0.0, np.zeros(size), np.zeros((size, size)), np.zeros((size, size)), 0.0)


def scaled(statistics: LikelihoodStatistics, weight: float) -> LikelihoodStatistics:
    """The matrices of some rows as if they weighed ``weight`` in all."""
    share = weight / statistics.weight
    return statistics._replace(
        information=share * statistics.information, complete=share * statistics.complete, weight=weight
    )


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def log_likelihood_of(parameters: MoEParameters, blocks: Iterable[Block], family: Family) -> float:
    """The log-likelihood alone: an E-step without statistics."""
    total, e_step = 0.0, EStep(Runs.one(parameters), family)
    for block in blocks:
        values = e_step(block).log_density[0]
        total += float(values.sum(dtype=np.float64) if block.weight is None else values @ block.weight)
    return total


def entropy_and_extremes(
    parameters: MoEParameters, blocks: Iterable[Block], family: Family
) -> tuple[float, Extremes | None]:
    """The entropy of the responsibilities, summed over rows; extremes of E[y|x] and of y."""
    total, e_step, buffers = 0.0, EStep(Runs.one(parameters), family), Buffers()
    extremes, n_rows = None, 0
    for block in blocks:
        found = e_step(block)
        total += entropy_of_rows(found.responsibilities[0], block.weight, buffers)
        both = np.concatenate([e_step.means(found), block.response[np.newaxis]])
        extremes = merge_extremes(extremes, Extremes.of(both, n_rows))
        n_rows += block.width
    return total, extremes


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def likelihood_statistics(
    parameters: MoEParameters,
    blocks: Iterable[Block],
    family: Family,
    *,
    precision: type = np.float64,
    second_order: bool = True,
    scores: bool = False,
    story: bool = False,
    metric: bool = False,
) -> LikelihoodStatistics:
    """Value, gradient and observed information; ``precision`` is that of the matrices' products.

    Single precision is enough where the information only scales a step: it does not move the optimum, and
    standard errors are not known to seven digits. Without ``second_order`` the information is zero and a pass
    takes a quarter of the time; ``scores`` asks for their products, ``story`` for entropy and extremes,
    ``metric`` for that of steps.
    """
    sums = RowSums(
        parameters,
        family,
        precision,
        second_order=second_order,
        scores=scores,
        story=story,
        metric=metric,
    )
    for block in blocks:
        sums.add(block)
    size = Layout.of(parameters).size
    return LikelihoodStatistics(
        value=sums.value,
        gradient=sums.gradient(),
        information=sums.information() if second_order else np.zeros((size, size)),
        complete=sums.complete_information() if second_order else np.zeros((size, size)),
        weight=sums.weight,
        mass=sums.mass,
        entropy=sums.entropy,
        scores=sums.score_products() if scores else None,
        extremes=sums.extremes,
        metric=sums.metric() if metric else None,
    )


def slopes_of(
    parameters: MoEParameters, rows: Observations, coordinates: Coordinates, family: Family
) -> LikelihoodStatistics:
    """Value and gradient alone, in parameters of ``coordinates``; rows are centred, not whitened."""
    gate, coef, nuisance = parameters
    gates = coordinates.gates
    centred = MoEParameters(gates.linear_to_centred(gate), coordinates.linear_to_centred(coef), nuisance)
    raw = likelihood_statistics(centred, rows.centred_blocks(coordinates), family, second_order=False)
    layout = Layout.of(centred)
    of_gates = gates.slopes_from_centred(raw.gradient[layout.gates].reshape(-1, layout.q_gate))
    of_experts = coordinates.slopes_from_centred(raw.gradient[layout.coefs].reshape(-1, layout.q_expert))
    scalars = raw.gradient[layout.nuisances]
    return raw._replace(gradient=np.concatenate([of_gates.ravel(), of_experts.ravel(), scalars]))


def penalized(
    statistics: LikelihoodStatistics, parameters: MoEParameters, prior: Prior
) -> LikelihoodStatistics:
    """The same statistics with the prior's penalty taken off: the maximized objective."""
    layout = Layout.of(parameters)
    curvature, majorizer = prior.hessians(parameters)
    return statistics._replace(
        value=statistics.value - float(prior.penalty(*parameters)),
        gradient=statistics.gradient - prior.gradient(layout, *parameters),
        information=statistics.information + curvature,
        complete=statistics.complete + majorizer,
        metric=None if statistics.metric is None else statistics.metric + majorizer,
    )
