"""`transportation_divergence`: how far one model is from another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import xarray as xr

from daskmoe.api.caller import short_errors
from daskmoe.api.comparable import check_models, support_sample
from daskmoe.model import MixtureOfExperts, model_at
from daskmoe.numerics.transport.cost import exact_divergence, relaxed_divergence
from daskmoe.options import RandomState, check_choice, entropy_of

_KINDS: dict[str, Callable[..., float]] = {"relaxed": relaxed_divergence, "exact": exact_divergence}


@short_errors
def transportation_divergence(
    model_a: MixtureOfExperts | str | os.PathLike[str],
    model_b: MixtureOfExperts | str | os.PathLike[str],
    support: xr.Dataset | str | os.PathLike[str],
    *,
    kind: str = "relaxed",
    random_state: RandomState = None,
) -> float:
    """The expected cost of moving the experts of one model to those of another.

    T(a, b) = E_x min_P sum_jk P_jk(x) KL(phi_j(.|x), phi_k(.|x)) over transport plans P(x) >= 0 whose mass
    leaves the experts of ``model_a`` as its gates say, sum_k P_jk(x) = pi_j(x). In the exact divergence it
    also arrives as the gates of ``model_b`` say, sum_j P_jk(x) = pi_k(x); the relaxed one leaves that open
    and is what the reduction estimator minimizes. Not symmetric; the exact one bounds KL(a, b) from above.

    Parameters
    ----------
    model_a, model_b : MixtureOfExperts or path
        The same features, target and family; any numbers of experts.
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
        If the models differ in features, target, units or family, or the support has other labels or no
        complete rows.
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
    first, second = model_at(model_a, "model_a"), model_at(model_b, "model_b")
    check_models([first, second])
    sample = support_sample(support, first, entropy_of(random_state))
    family: Any = first.densities
    return _KINDS[kind](first.mixture, second.mixture, sample, family)
