"""Responses drawn from a given mixture of experts. Pure NumPy."""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import get_family
from daskmoe.numerics.predictive.mixture import linear_predictor, log_gating


def sample_response(
    parameters: Mixture, family: str, features: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Draw y given x for every row: an expert from the gating network, then y from its density."""
    # The largest logit plus Gumbel noise is a draw from the softmax.
    logits = log_gating(parameters, features)
    expert = np.argmax(logits + rng.gumbel(size=logits.shape), axis=0)
    eta = np.take_along_axis(linear_predictor(parameters.coef, features), expert[None], axis=0)[0]
    return np.asarray(get_family(family).sample(rng, eta, parameters.dispersion[expert]))
