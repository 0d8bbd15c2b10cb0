"""Standard errors of a model at the maximum of the penalized log-likelihood.

Pure NumPy/SciPy. The model-based covariance is the inverse observed information I^-1; the robust one is the
sandwich I^-1 S I^-1 with S the sum over rows of the outer products of their scores (White, 1982, equation
2.4). Both are carried from the whitened coordinates to the data's units by the Jacobian of that change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.likelihood.statistics import pack_parameters


def jacobian(parameters: MoEParameters, coordinates: Coordinates, order: NDArray[np.intp]) -> FloatArray:
    """Derivative of all parameters in data units in the packed whitened ones, shape (2 K q' + K, P).

    ``parameters`` are whitened; q' = p + 1. Rows are gate (K, q'), coef (K, q') and variance (K,), flattened,
    with the experts in another ``order``, the last of which is the gating reference.
    """
    n_experts, q = parameters.gate.shape
    p = len(coordinates.center)
    linear = np.zeros((p + 1, q))
    linear[0, 0] = 1.0
    linear[1:, 1:] = coordinates.transform.T
    linear[0, 1:] = -coordinates.transform @ coordinates.center
    width, free = p + 1, n_experts - 1
    out = np.zeros(((2 * width + 1) * n_experts, len(pack_parameters(parameters))))
    for k in range(free):
        out[k * width : (k + 1) * width, k * q : (k + 1) * q] = linear
    for k in range(n_experts):
        rows = slice((n_experts + k) * width, (n_experts + k + 1) * width)
        out[rows, (free + k) * q : (free + k + 1) * q] = linear * coordinates.scale
    variances = np.arange(n_experts)
    scale = parameters.dispersion * coordinates.scale**2
    out[2 * n_experts * width + variances, (free + n_experts) * q + variances] = scale
    linear_rows = out[: 2 * n_experts * width].reshape(2, n_experts, width, -1)[:, order]
    linear_rows[0] -= linear_rows[0, -1].copy()
    variance_rows = out[2 * n_experts * width :][order]
    return np.concatenate([linear_rows.reshape(2 * n_experts * width, -1), variance_rows])


def standard_errors(
    information: FloatArray, scores: FloatArray | None, derivative: FloatArray, n_experts: int
) -> MoEParameters:
    """Standard errors arranged as parameters; model-based, or robust where ``scores`` are given.

    Raises
    ------
    scipy.linalg.LinAlgError
        If the information is not positive definite: the parameters are not at a maximum.
    """
    half = cho_solve(cho_factor(information, lower=True), derivative.T)
    if scores is None:
        variance = np.einsum("ij,ji->i", derivative, half)
    else:
        variance = np.einsum("ji,jk,ki->i", half, scores, half, optimize=True)
    errors = np.sqrt(variance.clip(0.0))
    width = (len(errors) // n_experts - 1) // 2
    split = n_experts * width
    return MoEParameters(
        errors[:split].reshape(n_experts, width),
        errors[split : 2 * split].reshape(n_experts, width),
        errors[2 * split :],
    )
