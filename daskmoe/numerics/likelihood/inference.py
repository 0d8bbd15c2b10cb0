"""Covariances of the parameters of a model at, or near, the maximum of the penalized log-likelihood.

Pure NumPy/SciPy. The model-based covariance is the inverse observed information I^-1; the others are
sandwiches I^-1 S I^-1 with S the sum of the outer products of the scores of rows (White, 1982, equation 2.4)
or of clusters of rows (Liang and Zeger, 1986). All are carried from the whitened coordinates to the data's
units by the Jacobian of that change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import INFERENCE
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics, penalized


class Curvature(NamedTuple):
    """The information on the parameters of a model, in whitened coordinates."""

    # Whitened.
    parameters: MoEParameters
    # (P, P): Observed, of the rows and the priors together, and the priors' part of it.
    information: FloatArray
    prior: FloatArray
    coordinates: Coordinates
    # In which the model in the data's units has the experts.
    order: NDArray[np.intp]
    # (P,): Of the rows' log-likelihood alone; at a maximum it is that of the priors' penalty.
    gradient: FloatArray


def curvature(
    parameters: MoEParameters,
    information: FloatArray,
    prior: Prior,
    coordinates: Coordinates,
    order: NDArray[np.intp],
) -> Curvature:
    """The `Curvature` at a maximum, from the information of rows and priors together."""
    nothing = LikelihoodStatistics.none(Layout.of(parameters).size)
    own = penalized(nothing, parameters, prior)
    return Curvature(parameters, information, own.information, coordinates, order, -own.gradient)


def is_definite(information: FloatArray) -> bool:
    """Whether it has an inverse that is a covariance."""
    try:
        scipy.linalg.cholesky(information, lower=True)
    except np.linalg.LinAlgError:
        return False
    return True


def is_near(predicted: float, size: int) -> bool:
    """Whether a Newton step to the maximum that gains so much is short in terms of standard errors."""
    return 2.0 * predicted <= INFERENCE.near**2 * size


def jacobian(parameters: MoEParameters, coordinates: Coordinates, order: NDArray[np.intp]) -> MoEParameters:
    """Derivatives of all parameters in data units in the packed whitened ones: a last axis of P each.

    ``parameters`` are whitened. Arrays are shaped as the parameters in data units, with the experts in
    another ``order``, the last of which is the gating reference.
    """
    layout = Layout.of(parameters)
    n_experts, width = layout.n_experts, len(coordinates.center) + 1
    # Column j is the image of the j-th whitened weight.
    linear = coordinates.linear_to_data(np.eye(coordinates.size)).T
    gates = coordinates.gates
    gate_linear = gates.linear_to_data(np.eye(gates.size)).T
    gate = np.zeros((n_experts, width, layout.size))
    coef = np.zeros((n_experts, layout.n_predictors, width, layout.size))
    nuisance = np.zeros((n_experts, layout.n_nuisances, layout.size))
    scales = np.broadcast_to(coordinates.response.scale, layout.n_predictors)
    for k in range(n_experts):
        if k < n_experts - 1:
            gate[k, :, layout.gate(k)] = gate_linear
        own = coef[k, :, :, layout.coef(k)].reshape(layout.n_predictors, width, layout.n_predictors, -1)
        for c, scale in enumerate(scales):
            own[c, :, c] = linear * scale
        coef[k, :, :, layout.coef(k)] = own.reshape(layout.n_predictors, width, -1)
        slopes = parameters.nuisance[k] * coordinates.response.nuisance
        nuisance[k, :, layout.nuisance(k)] = np.diag(slopes)
    gate = gate[order]
    return MoEParameters(gate - gate[-1], coef[order], nuisance[order])


def covariance(information: FloatArray, scores: FloatArray | None, derivatives: FloatArray) -> FloatArray:
    """Covariance (N, N) of N functions of the parameters; a sandwich where score products are given.

    ``derivatives`` (N, P) are those of the functions in the packed whitened parameters.

    Raises
    ------
    scipy.linalg.LinAlgError
        If the information is not positive definite: the parameters are not at a maximum.
    """
    factor = scipy.linalg.cho_factor(information, lower=True)
    half = scipy.linalg.cho_solve(factor, derivatives.T)
    found = derivatives @ half if scores is None else half.T @ scores @ half
    return np.asarray(0.5 * (found + found.T), dtype=np.float64)


def told_by_rows(curvature: Curvature, derivatives: FloatArray) -> NDArray[np.bool_]:
    """Of which of N functions of the parameters, as in `covariance`, the rows say more than the priors.

    With H the information of both and D that of the priors, g'H^-1 D H^-1 g is the priors' part of the
    variance g'H^-1 g: all of it where the rows say nothing. What does not depend on the parameters is known.
    """
    half = scipy.linalg.cho_solve(scipy.linalg.cho_factor(curvature.information, lower=True), derivatives.T)
    variance = np.einsum("np,pn->n", derivatives, half)
    from_priors = np.einsum("pn,pn->n", half, curvature.prior @ half)
    return np.asarray(from_priors <= INFERENCE.prior_share * variance)


def told_apart(curvature: Curvature) -> MoEParameters:
    """1 where a parameter in the data's units is told from those of other columns; shaped as they are."""
    layout = Layout.of(curvature.parameters)
    columns = curvature.coordinates.told_apart().astype(np.float64)
    gates = curvature.coordinates.gates.told_apart().astype(np.float64)
    return MoEParameters(
        np.tile(gates, (layout.n_experts, 1)),
        np.tile(columns, (layout.n_experts, layout.n_predictors, 1)),
        np.ones((layout.n_experts, layout.n_nuisances)),
    )
