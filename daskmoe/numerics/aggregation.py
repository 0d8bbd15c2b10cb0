"""From the local estimators of all partitions to one model.

Pure NumPy. Partitions that were left out carry no weight. With one local estimator of the right size there is
nothing to aggregate and it is returned as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.alignment import canonical_order
from daskmoe.numerics.families import Family
from daskmoe.numerics.parameters import FloatArray, LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.reduction import reduce_mixture

_LOCAL_STARTS = 5


class Aggregate(NamedTuple):
    """The aggregated model and how it came about.

    Attributes
    ----------
    parameters : MoEParameters
        In canonical order.
    objectives : ndarray of shape (iterations,)
        Transportation divergence at each MM iteration.
    start_objectives : ndarray of shape (starts,)
    flow : ndarray of shape (L, K)
        Mass moved from every component of the large MoE to every expert.
    converged : bool
    """

    parameters: MoEParameters
    objectives: FloatArray
    start_objectives: FloatArray
    flow: FloatArray
    converged: bool


def reduction_estimator(
    locals_: Sequence[MoEParameters],
    weights: FloatArray,
    support: SupportSample,
    n_experts: int,
    family: Family,
) -> Aggregate:
    """The reduction estimator R of arXiv:2312.09877 from local estimators in partition order.

    Parameters
    ----------
    locals_ : sequence of MoEParameters
        M local estimators.
    weights : ndarray of shape (M,)
        Row weights N_m; lambda_m is proportional to them.
    support : SupportSample
    n_experts : int
        K of the result.
    family : Family
    """
    large = LargeMoE.from_estimates(list(locals_), weights)
    if len(locals_) == 1 and locals_[0].n_experts == n_experts:
        return Aggregate(locals_[0], np.zeros(1), np.zeros(1), np.eye(n_experts), True)
    starts = _starts(locals_, weights, n_experts)
    result = reduce_mixture(large, support, starts, family)
    order = np.lexsort(result.parameters.coef.T[::-1])
    return Aggregate(
        canonical_order(result.parameters),
        result.objectives,
        result.start_objectives,
        result.flow[:, order],
        result.converged,
    )


def _starts(locals_: Sequence[MoEParameters], weights: FloatArray, n_experts: int) -> list[MoEParameters]:
    """A few local estimators, spread over the partitions: one in a bad optimum must not decide."""
    fitting: NDArray[np.intp] = np.array(
        [m for m, p in enumerate(locals_) if p.n_experts == n_experts and weights[m] > 0], dtype=np.intp
    )
    if not len(fitting):
        sizes = sorted({p.n_experts for p in locals_})
        raise InvalidOptionError(
            f"n_experts: expected the size of a local estimator, {sizes}, got {n_experts}."
        )
    chosen = np.unique(np.linspace(0, len(fitting) - 1, _LOCAL_STARTS).round().astype(np.intp))
    return [locals_[m] for m in fitting[chosen]]


def pool_support(samples: Sequence[SupportSample], weights: FloatArray) -> SupportSample:
    """One support sample from the partitions' shares, each weighing what its partition does.

    Responses are kept only if every share has them.
    """
    kept = [(s, w) for s, w in zip(samples, weights, strict=True) if len(s.features) and w > 0]
    total = sum(w for _, w in kept)
    responses = [s.response for s, _ in kept]
    known = [r for r in responses if r is not None]
    return SupportSample(
        np.concatenate([s.features for s, _ in kept]),
        np.concatenate(known) if len(known) == len(responses) else None,
        np.concatenate([s.weight * (w / total) for s, w in kept]),
    )
