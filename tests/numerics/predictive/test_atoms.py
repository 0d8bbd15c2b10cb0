"""A mixture beside atoms: quantiles invert the distribution, draws follow it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad

from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.families import get_family
from daskmoe.numerics.predictive.atoms import MixtureBesideAtoms

FEATURES = np.random.default_rng(0).normal(size=(40, 2))


@pytest.fixture(params=["gaussian", "student_t", "gamma"])
def mixture(request: pytest.FixtureRequest) -> MixtureBesideAtoms:
    family = get_family(request.param)
    rng = np.random.default_rng(1)
    gates = MoEParameters(np.zeros((1, 2)), 0.7 * rng.normal(size=(1, 2, 2)), np.empty((1, 0)))
    nuisance = np.full((2, family.n_nuisances), 0.2)
    gate = np.concatenate([rng.normal(size=(1, 3)), np.zeros((1, 3))])
    experts = MoEParameters(gate, 0.5 * rng.normal(size=(2, 1, 3)), nuisance)
    return MixtureBesideAtoms((0.0, 1.5), gates, (1,), experts, family)


def test_quantiles_are_the_least_values_that_reach_their_probability(mixture: MixtureBesideAtoms) -> None:
    levels = (0.02, 0.3, 0.5, 0.8, 0.99)
    for level, found in zip(levels, mixture.quantiles(FEATURES, levels), strict=True):
        reached = mixture.cdf(FEATURES, found)
        at = mixture.places(found).any(axis=0)
        assert at.any() or level in (0.02, 0.99)
        assert_allclose(reached[~at], level, atol=1e-9)
        assert (reached[at] >= level - 1e-12).all()
        assert (mixture.cdf(FEATURES[at], found[at] - 1e-9) < level).all()


def test_mass_and_density_are_one_together(mixture: MixtureBesideAtoms) -> None:
    x = FEATURES[:1]

    def density(y: float) -> float:
        return float(np.exp(mixture.log_density(x, np.array([y])))[0])

    low = 1e-12 if mixture.family.name == "gamma" else -np.inf
    # The integral does not see the atoms, which are two points.
    between = sum(quad(density, *ends, epsabs=1e-9)[0] for ends in ((low, 0.7), (0.7, 3.1), (3.1, np.inf)))
    assert_allclose(between + density(0.0) + density(1.5), 1.0, atol=1e-6)
    assert_allclose(mixture.gating(x).sum(axis=0), 1.0)


def test_draws_have_the_mass_and_the_mean(mixture: MixtureBesideAtoms) -> None:
    x = np.repeat(FEATURES[:1], 40_000, axis=0)
    drawn = mixture.sample(x, np.random.default_rng(2))
    places = mixture.places(drawn)
    assert_allclose(places.mean(axis=1), mixture.chances(x[:1])[1:, 0], atol=0.012)
    middle = mixture.quantiles(x[:1], [0.9])[0, 0]
    assert_allclose((drawn <= middle).mean(), mixture.cdf(x[:1], np.array([middle]))[0], atol=0.012)


def test_an_atom_is_known_in_single_precision(mixture: MixtureBesideAtoms) -> None:
    found = mixture._replace(values=(0.1, 1.5)).places(np.array([0.1, 0.2], np.float32))
    assert found.tolist() == [[True, False], [False, False]]
