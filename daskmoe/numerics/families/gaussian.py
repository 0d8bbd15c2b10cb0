"""Gaussian experts: phi_k(y|x) = N(y; eta_k, sigma_k^2) with linear predictor eta_k = coef_k @ [1, x].

Pure NumPy. ``eta`` and everything derived from it has the expert axis at -2 and the row axis last;
``dispersion`` is the variance sigma^2 with the expert axis last. The log-variance psi = log sigma^2 is the
coordinate in which the optimizers work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

_LOG_2PI = float(np.log(2 * np.pi))


class Gaussian:
    """The gaussian family (identity link, variance as dispersion)."""

    name = "gaussian"

    def log_density(self, y: Array, eta: Array, dispersion: Array) -> Array:
        """log phi(y) = -((y - eta)^2 / sigma^2 + log sigma^2 + log 2 pi) / 2, shaped like ``eta``."""
        out = y - eta
        out *= out
        out *= (-0.5 / dispersion)[..., None]
        out -= (0.5 * (np.log(dispersion) + _LOG_2PI))[..., None]
        return out

    def mean(self, eta: Array) -> Array:
        """E[y|x] = eta."""
        return eta

    def variance(self, eta: Array, dispersion: Array) -> Array:
        """Var[y|x] = sigma^2, broadcast like ``eta``."""
        return np.broadcast_to(dispersion[..., None], eta.shape)

    def sample(self, rng: np.random.Generator, eta: Array, dispersion: Array) -> Array:
        """Draw y from N(eta, sigma^2), elementwise."""
        return eta + np.sqrt(dispersion) * rng.standard_normal(eta.shape)

    def divergence(
        self,
        eta_from: Array,
        dispersion_from: Array,
        eta_to: Array,
        dispersion_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL(N(eta_from, s_from) || N(eta_to, s_to)) elementwise, the arguments broadcast together.

        Written to ``out``, of the common shape, where it is given.

        KL = (s_from / s_to - 1 + (eta_from - eta_to)^2 / s_to + log(s_to / s_from)) / 2.
        """
        ratio = dispersion_from / dispersion_to
        constant = 0.5 * (ratio - 1.0 - np.log(ratio))
        half_precision = 0.5 / dispersion_to
        if out is None:
            arguments = (eta_from, eta_to, constant, half_precision)
            out = np.empty(np.broadcast_shapes(*map(np.shape, arguments)))
        # In place: this is the innermost work of the transport plan.
        np.subtract(eta_from, eta_to, out=out)
        out *= out
        out *= half_precision
        out += constant
        return out
