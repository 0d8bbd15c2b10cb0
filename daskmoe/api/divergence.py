"""`transportation_divergence`: how far one model is from another, their atoms included."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import xarray as xr

from daskmoe.api.caller import short_errors
from daskmoe.api.comparable import check_models, support_sample
from daskmoe.errors import InvalidDataError
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms, any_model_at
from daskmoe.numerics.base.parameters import SupportSample
from daskmoe.numerics.transport.cost import exact_divergence, relaxed_divergence
from daskmoe.options import RandomState, check_choice, entropy_of

Divergence = Callable[..., float]
Model = MixtureOfExperts | MixtureWithAtoms
Support = xr.Dataset | str | os.PathLike[str]

_KINDS: dict[str, Divergence] = {"relaxed": relaxed_divergence, "exact": exact_divergence}


@short_errors
def transportation_divergence(
    model_a: Model | str | os.PathLike[str],
    model_b: Model | str | os.PathLike[str],
    support: Support,
    *,
    kind: str = "relaxed",
    random_state: RandomState = None,
) -> float:
    """The expected cost of moving the experts of one model to those of another.

    T(a, b) = E_x min_P sum_jk P_jk(x) KL(phi_j(.|x), phi_k(.|x)) over transport plans P(x) >= 0 whose mass
    leaves the experts of ``model_a`` as its gates say, sum_k P_jk(x) = pi_j(x). In the exact divergence it
    also arrives as the gates of ``model_b`` say, sum_j P_jk(x) = pi_k(x); the relaxed one leaves that open
    and is what the reduction estimator minimizes. Not symmetric; the exact one bounds KL(a, b) from above.

    Between an atom and a density there is no finite cost, so with atoms, the same in both, mass at an atom
    stays there: T(a, b) = E_x [KL(p(.|x), q(.|x)) + p_0(x) T_x], with p and q the probabilities of the atoms
    and of no atom, 0, in the two models, and T_x the divergence of their experts at x, as above. The first
    term is how far the gates of the atoms are apart; as KL(a, b) is the same sum with that of the experts'
    mixtures in place of T_x, the exact divergence still bounds it.

    Parameters
    ----------
    model_a, model_b : MixtureOfExperts, MixtureWithAtoms or path
        The same features, target, family and atoms; any numbers of experts.
    support : xr.Dataset or path
        Rows at which the expectation over x is taken; the target is not needed. Of more than 40,000
        rows, 40,000 spread over the data are looked at; of more than 10,000 complete ones of these, a random
        10,000 are used.
    kind : {"relaxed", "exact"}
    random_state : int, SeedSequence, Generator or None
        Draws the support rows.

    Returns
    -------
    float
        In nats.

    Raises
    ------
    InvalidDataError
        If the models differ in features, target, units, family or atoms, or the support has other labels or
        no complete rows.
    InvalidOptionError
        If the kind is unknown.

    References
    ----------
    arXiv:2312.09877, section 3.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(1000, n_features=3, n_experts=2, random_state=0)
    >>> fitted = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
    >>> relaxed = daskmoe.transportation_divergence(truth, fitted, data)
    >>> 0 < relaxed <= daskmoe.transportation_divergence(truth, fitted, data, kind="exact")
    True
    """
    check_choice("kind", kind, tuple(_KINDS))
    first, second = any_model_at(model_a, "model_a"), any_model_at(model_b, "model_b")
    divergence, seed = _KINDS[kind], entropy_of(random_state)
    _check_atoms(first, second)
    if isinstance(first, MixtureWithAtoms) and isinstance(second, MixtureWithAtoms):
        return _beside_atoms(first, second, support, divergence, seed)
    assert isinstance(first, MixtureOfExperts)
    assert isinstance(second, MixtureOfExperts)
    check_models([first, second])
    return _between(first, second, support_sample(support, first.rows, seed), divergence)


def _check_atoms(first: Model, second: Model) -> None:
    """Raise `InvalidDataError` unless the atoms are the same."""
    atoms = [list(each.atoms) if isinstance(each, MixtureWithAtoms) else [] for each in (first, second)]
    if atoms[0] != atoms[1]:
        raise InvalidDataError(
            f"model_b: expected the atoms {atoms[0]} of model_a, got {atoms[1]}: mass at an atom of one "
            "model alone is infinitely far from the other. Fit both with the same atoms=, or compare their "
            "model.experts, of rows at no atom."
        )


def _beside_atoms(
    first: MixtureWithAtoms, second: MixtureWithAtoms, support: Support, divergence: Divergence, seed: int
) -> float:
    """Of the gates of the atoms, and of the experts, for whom a row counts by its chance of no atom."""
    check_models([first.experts, second.experts])
    # Expectations are over x of all rows, at atoms too.
    sample = support_sample(support, replace(first.rows, atoms=()), seed)
    of_gates = sample._replace(features=sample.features[:, list(first.rows.gate_positions)])
    elsewhere = sample._replace(weight=sample.weight * first.mixture.chances(sample.features)[0])
    return _between(first.atom_gates, second.atom_gates, of_gates, divergence) + _between(
        first.experts, second.experts, elsewhere, divergence
    )


def _between(
    first: MixtureOfExperts, second: MixtureOfExperts, sample: SupportSample, divergence: Divergence
) -> float:
    return divergence(first.mixture, second.mixture, sample, first.densities)
