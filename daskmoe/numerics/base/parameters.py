"""The plain containers of the numerics: parameters, estimates and samples as NamedTuples of arrays.

Nothing here computes a fit. The expert axis comes first in every array of parameters, and column 0 of a
``...``
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.extremes import Extremes

FloatArray = NDArray[np.float64]


class Columns(NamedTuple):
    """Which of the p features are the gates' and which the experts', by position; None for all of them.

    One of them may be the offset, which is neither's: a part of every linear predictor, with a weight of one.
    """

    gates: tuple[int, ...] | None = None
    experts: tuple[int, ...] | None = None
    offset: int | None = None

    @property
    def shared(self) -> bool:
        """Whether gates and experts have the same features."""
        return self.gates == self.experts

    @property
    def together(self) -> Columns:
        """The features of both as if they were everybody's."""
        if self.offset is None:
            return ALL_SHARED
        # It is behind the features.
        return Columns(tuple(range(self.offset)), tuple(range(self.offset)), self.offset)


ALL_SHARED = Columns()


class MoEParameters(NamedTuple):
    """Parameters of one mixture of experts, f(y|x) = sum_k pi_k(x) phi_k(y|x)."""

    # (K, q): Gating network: pi(x) = softmax(gate @ [1, x]); the last row is zero (the reference expert).
    # In the data's units gates and experts have a weight for every feature, zero where it is not theirs; in
    # whitened coordinates they have weights of their own directions only, and not as many.
    gate: FloatArray
    # (K, C, q): Expert regressions: the linear predictors of expert k are coef[k] @ [1, x].
    coef: FloatArray
    # (K, D): What else an expert has, positive numbers: the variance for the gaussian family.
    nuisance: FloatArray

    @property
    def n_experts(self) -> int:
        """K, the number of experts."""
        return int(self.gate.shape[0])

    @property
    def n_features(self) -> int:
        """p, the number of features (without the intercept)."""
        return int(self.gate.shape[1] - 1)

    def take(self, order: NDArray[np.intp]) -> MoEParameters:
        """The same model with its experts in another order, the last of them the new gating reference."""
        gate = self.gate[order]
        return MoEParameters(gate - gate[-1], self.coef[order], self.nuisance[order])


class Moments(NamedTuple):
    """Weighted first and second moments of the rows of a partition, features and response together."""

    # Sum of the row weights (the row count where there are none).
    weight: float
    # (p + O,): Means of the p features and, last, of the response, or of its O outputs.
    mean: FloatArray
    # (p + O, p + O): Sum over rows of weight times the outer product of the centred (features, response) row.
    scatter: FloatArray
    columns: Columns = ALL_SHARED
    n_outputs: int = 1

    @property
    def n_features(self) -> int:
        """p."""
        return len(self.mean) - self.n_outputs

    @property
    def of_all_columns(self) -> Moments:
        """The same, as if gates and experts had the features of both."""
        return self._replace(columns=self.columns.together)


class SupportSample(NamedTuple):
    """Rows at which expectations over x are taken."""

    # (S, p)
    features: FloatArray
    # (S,), of several outputs (S, O): None where no response may leave a partition.
    response: FloatArray | None
    # (S,): Row weights that sum to one.
    weight: FloatArray
    columns: Columns = ALL_SHARED

    def where(self, chosen: NDArray[np.bool_]) -> SupportSample:
        """The chosen rows; all where none weighs anything."""
        weight = self.weight[chosen]
        if chosen.all() or not weight.sum() > 0.0:
            return self
        response = None if self.response is None else self.response[chosen]
        return SupportSample(self.features[chosen], response, weight / weight.sum(), self.columns)


class LocalEstimate(NamedTuple):
    """What one partition sends back: its local estimator and kilobytes about it."""

    # None where the partition was left out.
    parameters: MoEParameters | None
    # Rows that were used.
    rows: int
    # Rows left out because of missing values or a weight of zero.
    dropped_rows: int
    # Sum of the row weights (equals ``rows`` where there are none).
    weight: float
    # Sum over rows of (weighted) log f(y|x), without the prior.
    log_likelihood: float
    # The maximized penalized log-likelihood.
    objective: float
    # Sum over rows of the (weighted) entropy of their responsibilities; NaN from a shared start.
    entropy: float
    # Passes over all rows of the partition that the kept ascent took.
    passes: int
    converged: bool
    # Log-likelihood a row that each start reached in its race; n_init of them, more where a search widens.
    start_log_likelihoods: FloatArray
    # (K,): Sum of the (weighted) responsibilities of each expert: how many rows speak for it.
    expert_weights: FloatArray
    # Time of the fit, in seconds.
    seconds: float
    # Of E[y|x] and of y over the rows; from a shared start of y alone with a single expert, else None.
    extremes: Extremes | None = None

    def in_order(self, order: NDArray[np.intp]) -> LocalEstimate:
        """The same with its experts in another order."""
        assert self.parameters is not None
        mass = self.expert_weights
        return self._replace(
            parameters=self.parameters.take(order), expert_weights=mass[order] if mass.size else mass
        )


class LargeMoE(NamedTuple):
    """The weighted average of all local estimators as one mixture of L = sum_m K_m components.

    It evaluates like any other mixture; see `mixture`.
    """

    # (L, q), (L, C, q) and (L, D): Component l uses row l; its gate is normalized among the components of the
    # same partition.
    gate: FloatArray
    coef: FloatArray
    nuisance: FloatArray
    # (L,): Position (0 to M - 1) of the local estimator that component l belongs to; sorted.
    partition: NDArray[np.intp]
    # (M,): lambda_m, proportional to the partitions' weights; sums to one.
    weights: FloatArray

    @classmethod
    def from_estimates(cls, parameters: list[MoEParameters], weights: FloatArray) -> LargeMoE:
        """Stack local estimators, in the given order, with weights proportional to ``weights``."""
        sizes = [p.n_experts for p in parameters]
        return cls(
            np.concatenate([p.gate for p in parameters]),
            np.concatenate([p.coef for p in parameters]),
            np.concatenate([p.nuisance for p in parameters]),
            np.repeat(np.arange(len(sizes)), sizes),
            np.asarray(weights, float) / np.sum(weights),
        )

    @property
    def sizes(self) -> NDArray[np.intp]:
        """K_m, the number of experts of each local estimator, shape (M,)."""
        return np.bincount(self.partition, minlength=len(self.weights))

    @property
    def n_experts(self) -> int:
        """L, the number of components."""
        return int(self.gate.shape[0])

    @property
    def n_features(self) -> int:
        """p, the number of features (without the intercept)."""
        return int(self.gate.shape[1] - 1)

    def take(self, partitions: NDArray[np.intp]) -> LargeMoE:
        """The large MoE of some of the local estimators, in the given order."""
        locals_ = self.local_parameters()
        return LargeMoE.from_estimates([locals_[m] for m in partitions], self.weights[partitions])

    def local_parameters(self) -> list[MoEParameters]:
        """The local estimators again, in partition order."""
        stops = np.cumsum(self.sizes)
        parts = [slice(stop - size, stop) for stop, size in zip(stops, self.sizes, strict=True)]
        return [MoEParameters(self.gate[s], self.coef[s], self.nuisance[s]) for s in parts]


Mixture = MoEParameters | LargeMoE


def canonical_order(parameters: MoEParameters) -> MoEParameters:
    """Experts by ascending intercept, then slopes: the same model whichever start or partition found it."""
    return parameters.take(canonical_indices(parameters))


def canonical_indices(parameters: MoEParameters) -> NDArray[np.intp]:
    """The order in which `canonical_order` takes the experts."""
    return np.asarray(np.lexsort(parameters.coef.reshape(parameters.n_experts, -1).T[::-1]))


def order_by_share(parameters: MoEParameters, mass: FloatArray) -> NDArray[np.intp]:
    """The order of the experts from the largest ``mass``, (K,), to the least; of equal ones the canonical."""
    canonical = canonical_indices(parameters)
    return canonical[np.argsort(-mass[canonical], kind="stable")]
