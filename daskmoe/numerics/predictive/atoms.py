"""A mixture of experts beside atoms: P(y = a_j|x) at atoms a_j, and between them a density.

Pure NumPy. The response is at atom j with probability p_j(x) and elsewhere with p_0(x), a softmax of its own;
elsewhere it has the density f(y|x) of a mixture of K experts. The likelihood is a mixed one: the mass p_j(x)
at atom j, p_0(x) f(y|x) elsewhere. Arrays over experts have the K experts first and the atoms behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.atoms import at_value
from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family, get_family
from daskmoe.numerics.predictive.draws import sample_response
from daskmoe.numerics.predictive.mixture import (
    Features,
    class_probabilities,
    log_density,
    log_gating,
    mixture_cdf,
    mixture_mean,
    responsibilities,
)
from daskmoe.numerics.predictive.quantiles import row_quantiles

# What a share of no mass counts as in a logarithm.
_TINY = np.finfo(float).tiny


class MixtureBesideAtoms(NamedTuple):
    """A mixture of experts, and the atoms beside it."""

    # (A,): The atoms, sorted.
    values: tuple[float, ...]
    # Of a single categorical expert with A + 1 classes, the first of which is no atom.
    gates: Mixture
    # Positions of its features among those of the experts' mixture.
    columns: tuple[int, ...]
    # What the response is where it is at no atom.
    experts: Mixture
    family: Family

    @property
    def n_experts(self) -> int:
        """Experts and atoms."""
        return self.experts.n_experts + len(self.values)

    def chances(self, features: Features) -> FloatArray:
        """p_0(x), of no atom, and behind it p_j(x) of every atom, shape (1 + A, n)."""
        nominal = get_family("categorical", len(self.values) + 1)
        return np.asarray(class_probabilities(self.gates, nominal, features[:, list(self.columns)]))

    def places(self, response: NDArray[Any]) -> NDArray[np.bool_]:
        """Which atom a response is at, shape (A, n)."""
        return np.stack([at_value(response, value) for value in self.values])

    def gating(self, features: Features) -> FloatArray:
        """Probabilities of the experts and of the atoms, shape (K + A, n)."""
        chances = self.chances(features)
        return np.concatenate([chances[0] * np.exp(log_gating(self.experts, features)), chances[1:]])

    def log_density(self, features: Features, response: NDArray[Any]) -> FloatArray:
        """The logarithm of the mass at an atom, of the density elsewhere, shape (n,)."""
        places, chances = self.places(response), np.log(self.chances(features).clip(_TINY))
        free = ~places.any(axis=0)
        out: FloatArray = np.where(free, chances[0], (chances[1:] * places).sum(axis=0))
        if free.any():
            out[free] += log_density(self.experts, self.family, features[free], response[free])
        return out

    def responsibilities(self, features: Features, response: NDArray[Any]) -> FloatArray:
        """One of an atom where the response is at it, else those of the experts, shape (K + A, n)."""
        places = self.places(response)
        free = ~places.any(axis=0)
        out = np.zeros((self.n_experts, len(response)))
        out[self.experts.n_experts :] = places
        if free.any():
            found = responsibilities(self.experts, self.family, features[free], response[free])
            out[: self.experts.n_experts, free] = found
        return out

    def entropy(self, features: Features, response: NDArray[Any]) -> FloatArray:
        """Of the responsibilities, shape (n,)."""
        return np.asarray(scipy.special.entr(self.responsibilities(features, response)).sum(axis=0))

    def mean(self, features: Features) -> FloatArray:
        """E[y|x], shape (n,)."""
        chances = self.chances(features)
        return np.asarray(
            chances[0] * mixture_mean(self.experts, self.family, features) + self.values @ chances[1:]
        )

    def squared_error(self, features: Features, response: NDArray[Any]) -> FloatArray:
        """(y - E[y|x])², shape (n,)."""
        return np.asarray((response - self.mean(features)) ** 2)

    def cdf(self, features: Features, response: FloatArray) -> FloatArray:
        """P(Y <= y|x), which jumps at atoms, shape (n,)."""
        chances = self.chances(features)
        # Of a response in single precision, a value at an atom may be a little below it.
        reached = (np.asarray(self.values)[:, np.newaxis] <= response) | self.places(response)
        below = mixture_cdf(self.experts, self.family, features, response)
        return np.asarray(chances[0] * below + (chances[1:] * reached).sum(axis=0))

    def quantiles(self, features: Features, probabilities: Sequence[float]) -> FloatArray:
        """The least y with P(Y <= y|x) >= P for every probability P, shape (len(probabilities), n).

        Many are at an atom. The others are quantiles of the experts' mixture, at the probability that is left
        when the mass of the atoms below has been taken away.
        """
        chances = self.chances(features)
        # P(Y <= a) at every atom a; the atoms are sorted.
        upper = np.stack([self.cdf(features, np.full(len(features), value)) for value in self.values])
        out = np.empty((len(probabilities), len(features)))
        for found, probability in zip(out, probabilities, strict=True):
            passed = upper < probability
            below = (chances[1:] * passed).sum(axis=0)
            at = (upper - chances[1:] < probability) & ~passed
            found[:] = (np.asarray(self.values)[:, np.newaxis] * at).sum(axis=0)
            free = np.flatnonzero(~at.any(axis=0))
            if free.size:
                own = (probability - below[free]) / chances[0, free].clip(_TINY)
                # Rounding must not carry a probability to its ends, where quantiles are infinite.
                own = own.clip(_TINY, 1.0 - np.finfo(float).epsneg)
                found[free] = row_quantiles(self.experts, self.family, features[free], own)
        return out

    def sample(self, features: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw y given x for every row: an atom or none, then of none from the experts."""
        chances = self.chances(features)
        drawn = sample_response(self.experts, self.family, features, rng)
        place = (rng.random(len(features)) > np.cumsum(chances, axis=0)[:-1]).sum(axis=0)
        return np.asarray(np.where(place == 0, drawn, np.array([0.0, *self.values])[place]))
