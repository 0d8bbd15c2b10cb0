"""Responses drawn from a given mixture of experts. Pure NumPy."""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import linear_predictor, log_gating


def sample_response(
    parameters: Mixture, family: Family, features: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Draw y given x for every row: an expert from the gating network, then y from its density."""
    # The largest logit plus Gumbel noise is a draw from the softmax.
    logits = log_gating(parameters, features)
    expert = np.argmax(logits + rng.gumbel(size=logits.shape), axis=0)
    eta = linear_predictor(parameters.coef, features)
    own = np.take_along_axis(eta, expert[None, None], axis=0)[0]
    return np.asarray(family.sample(rng, own, parameters.nuisance[expert]))
