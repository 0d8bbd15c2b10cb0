"""Standard errors of a model at the maximum of the penalized log-likelihood.

Pure NumPy/SciPy. The model-based covariance is the inverse observed information I^-1; the robust one is the
sandwich I^-1 S I^-1 with S the sum over rows of the outer products of their scores (White, 1982, equation
2.4). Both are carried from the whitened coordinates to the data's units by the Jacobian of that change.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters


def jacobian(parameters: MoEParameters, coordinates: Coordinates, order: NDArray[np.intp]) -> MoEParameters:
    """Derivatives of all parameters in data units in the packed whitened ones: a last axis of P each.

    ``parameters`` are whitened. Arrays are shaped as the parameters in data units, with the experts in
    another ``order``, the last of which is the gating reference.
    """
    layout = Layout.of(parameters)
    n_experts, width = layout.n_experts, len(coordinates.center) + 1
    # Column j is the image of the j-th whitened weight.
    linear = coordinates.linear_to_data(np.eye(coordinates.size)).T
    gate = np.zeros((n_experts, width, layout.size))
    coef = np.zeros((n_experts, layout.n_predictors, width, layout.size))
    nuisance = np.zeros((n_experts, layout.n_nuisances, layout.size))
    for k in range(n_experts):
        if k < n_experts - 1:
            gate[k, :, layout.gate(k)] = linear
        own = coef[k, :, :, layout.coef(k)].reshape(layout.n_predictors, width, layout.n_predictors, -1)
        for c in range(layout.n_predictors):
            own[c, :, c] = linear * coordinates.response.scale
        coef[k, :, :, layout.coef(k)] = own.reshape(layout.n_predictors, width, -1)
        scale = parameters.nuisance[k] * coordinates.response.nuisance
        nuisance[k, :, layout.nuisance(k)] = np.diag(scale)
    gate = gate[order]
    return MoEParameters(gate - gate[-1], coef[order], nuisance[order])


def standard_errors(
    information: FloatArray, scores: FloatArray | None, derivatives: MoEParameters
) -> MoEParameters:
    """Standard errors arranged as parameters; model-based, or robust where ``scores`` are given.

    ``derivatives`` are those of `jacobian`.

    Raises
    ------
    scipy.linalg.LinAlgError
        If the information is not positive definite: the parameters are not at a maximum.
    """
    factor = scipy.linalg.cho_factor(information, lower=True)

    def errors(derivative: FloatArray) -> FloatArray:
        flat = derivative.reshape(-1, derivative.shape[-1])
        half = scipy.linalg.cho_solve(factor, flat.T)
        if scores is None:
            variance = np.einsum("ij,ji->i", flat, half)
        else:
            variance = np.einsum("ji,jk,ki->i", half, scores, half, optimize=True)
        return np.asarray(np.sqrt(variance.clip(0.0)).reshape(derivative.shape[:-1]))

    return MoEParameters(*map(errors, derivatives))
