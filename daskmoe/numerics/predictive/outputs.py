"""What a mixture of experts of several outputs says of each of them. Pure NumPy.

Of one output alone it is a mixture of experts of that output, with the same gates. Shapes: O outputs, n rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import Features, linear_predictor, log_gating
from daskmoe.numerics.predictive.quantiles import mixture_quantiles


def marginal(parameters: Mixture, output: int) -> Mixture:
    """The mixture of one output alone."""
    own = slice(output, output + 1)
    coef, nuisance = parameters.coef[:, own], parameters.nuisance[:, own]
    return parameters._replace(coef=coef, nuisance=nuisance)


def output_means(parameters: Mixture, family: Family, features: Features) -> FloatArray:
    """E[y_o|x] = sum_k pi_k(x) E[y_o|x, expert k], shape (O, n)."""
    gates = np.exp(log_gating(parameters, features))
    means = family.mean(linear_predictor(parameters.coef, features), parameters.nuisance)
    return np.asarray(np.einsum("kn,kon->on", gates, means))


def output_quantiles(
    parameters: Mixture, family: Family, features: Features, probabilities: Sequence[float]
) -> FloatArray:
    """The quantiles of every output, as `mixture_quantiles`: shape (len(probabilities), O, n)."""
    parts = [
        mixture_quantiles(marginal(parameters, o), family.of_output, features, probabilities)
        for o in range(family.n_outputs)
    ]
    return np.stack(parts, axis=1)


def output_cdf(parameters: Mixture, family: Family, features: Features, response: FloatArray) -> FloatArray:
    """P(Y_o <= y_o|x) of every output, of responses (n, O) or the same for all, (n,), shape (O, n)."""
    gates = np.exp(log_gating(parameters, features))
    eta = linear_predictor(parameters.coef, features)
    y = np.broadcast_to(np.asarray(response, np.float64).T, eta.shape[1:])
    return np.asarray(np.einsum("kn,kon->on", gates, family.cdf(y, eta, parameters.nuisance)))
