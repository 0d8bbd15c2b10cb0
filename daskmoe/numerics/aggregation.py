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
from daskmoe.numerics.mixture import log_density
from daskmoe.numerics.parameters import FloatArray, LargeMoE, MoEParameters, Moments, SupportSample
from daskmoe.numerics.priors import prior_from
from daskmoe.numerics.reduction import reduce_mixture
from daskmoe.numerics.refinement import Expansion, Pilot, combine_expansions

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
    candidates : dict of str to float
        Log-likelihood a row of every candidate on the labelled support; empty where there was no choice.
    chosen : str
        The method that gave ``parameters``.
    """

    parameters: MoEParameters
    objectives: FloatArray
    start_objectives: FloatArray
    flow: FloatArray
    converged: bool
    candidates: dict[str, float]
    chosen: str


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
        return Aggregate(locals_[0], np.zeros(1), np.zeros(1), np.eye(n_experts), True, {}, "local")
    starts = _starts(locals_, weights, n_experts)
    result = reduce_mixture(large, support, starts, family)
    order = np.lexsort(result.parameters.coef.T[::-1])
    return Aggregate(
        canonical_order(result.parameters),
        result.objectives,
        result.start_objectives,
        result.flow[:, order],
        result.converged,
        {},
        "reduction",
    )


def one_shot_estimator(
    expansions: Sequence[Expansion],
    locals_: Sequence[MoEParameters],
    weights: FloatArray,
    support: SupportSample,
    pooled: Moments,
    pilot: Pilot,
    family: Family,
) -> Aggregate:
    """The best estimator of one communication step: information-weighted, from a shared start.

    The maximum of the summed expansions, unless another candidate (the reduction of the local estimates, the
    pilot itself) is better on the labelled support by more than twice the standard error of the difference.

    Parameters
    ----------
    expansions : sequence of Expansion
    locals_ : sequence of MoEParameters
    weights : ndarray of shape (M,)
    support : SupportSample
        With responses.
    pooled : Moments
        Of all rows; they make the prior.
    pilot : Pilot
    family : Family
    """
    n_experts = pilot.parameters.n_experts
    prior = prior_from(pooled, pilot.coordinates, n_experts)
    one_shot = combine_expansions(expansions, pilot, prior)
    start = pilot.parameters if one_shot is None else one_shot
    reduced = reduce_mixture(LargeMoE.from_estimates(list(locals_), weights), support, [start], family)
    candidates = {"one-shot": one_shot, "reduction": reduced.parameters, "pilot": pilot.parameters}
    known = {name: p for name, p in candidates.items() if p is not None}
    chosen, scores = _choose(known, support, family)
    order = np.lexsort(known[chosen].coef.T[::-1])
    return Aggregate(
        known[chosen].take(order),
        reduced.objectives,
        reduced.start_objectives,
        reduced.flow[:, order],
        reduced.converged,
        scores,
        chosen,
    )


def _choose(
    candidates: dict[str, MoEParameters], support: SupportSample, family: Family
) -> tuple[str, dict[str, float]]:
    """The first candidate, unless another is significantly better on the support."""
    assert support.response is not None
    values = {
        name: log_density(parameters, family, support.features, support.response)
        for name, parameters in candidates.items()
    }
    scores = {name: float(support.weight @ value) for name, value in values.items()}
    chosen = next(iter(candidates))
    for name, value in values.items():
        difference = value - values[chosen]
        gain = float(support.weight @ difference)
        deviation = float(np.sqrt(support.weight**2 @ (difference - gain) ** 2))
        if gain > 2.0 * deviation or not np.isfinite(scores[chosen]):
            chosen = name
    return chosen, scores


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
