"""AIC, BIC and ICL of a model, on the rows of its fit or on others; the less the better."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.model import prediction
from daskmoe.model.floor import experts_at_floor
from daskmoe.model.history import training_of
from daskmoe.model.labels import expert_names
from daskmoe.model.store import ModelParts
from daskmoe.numerics.base.parameters import Mixture
from daskmoe.options import OnError
from daskmoe.rows import Data

logger = logging.getLogger(__name__)


class Likelihood(NamedTuple):
    """How well a model describes some rows."""

    # In nats.
    value: float
    # How many rows, or the sum of their weights.
    rows: float


def likelihood(parts: ModelParts, parameters: Mixture, data: Data | None, *, on_error: OnError) -> Likelihood:
    """Of ``data``, or without any of the rows of the fit."""
    if data is not None:
        family = parts.densities
        return Likelihood(*prediction.total_log_density(parameters, family, data, parts.rows, on_error))
    value = training_of(parts.diagnostics).log_likelihood
    if value is None or parts.weight is None:
        raise InvalidDataError(_unknown("log-likelihood", "log_likelihood", parts.diagnostics))
    return Likelihood(value, parts.weight)


def tell_of_floor(parts: ModelParts, parameters: Mixture) -> None:
    """Log that figures of a density say little where an expert sits on repeated values."""
    spikes = experts_at_floor(parameters, parts.densities, parts.diagnostics, parts.options)
    if spikes:
        called = expert_names(parts.params)
        named = ", ".join(called[spike.expert] for spike in spikes)
        logger.warning(
            "%s is at the variance floor: a density on repeated values is not one. log_likelihood, "
            "aic, bic and icl grow with the floor's fineness; compare such models by their predictions.",
            named,
        )


def entropy(parts: ModelParts, parameters: Mixture, data: Data | None, *, on_error: OnError) -> float:
    """Sum over the same rows of the entropy of their responsibilities."""
    if data is not None:
        return prediction.total_entropy(parameters, parts.densities, data, parts.rows, on_error=on_error)
    if parameters.n_experts == 1:
        # A single expert is responsible for every row.
        return 0.0
    value = training_of(parts.diagnostics).entropy
    if value is None:
        raise InvalidDataError(_unknown("entropy of the responsibilities", "icl", parts.diagnostics))
    return value


def aic(found: Likelihood, size: int) -> float:
    """Akaike (1974)."""
    return 2.0 * size - 2.0 * found.value


def bic(found: Likelihood, size: int) -> float:
    """Schwarz (1978)."""
    return float(size * np.log(found.rows)) - 2.0 * found.value


def icl(found: Likelihood, size: int, entropy: float) -> float:
    """Biernacki, Celeux and Govaert (2000), by the approximation of BIC."""
    return bic(found, size) + 2.0 * entropy


def _unknown(what: str, method: str, diagnostics: xr.Dataset | None) -> str:
    fitted = "one step over several partitions does not find" if diagnostics is not None else "no fit found"
    return (
        f"{method}: expected data, or a model that knows the {what} of its own rows, got neither: {fitted} "
        f"it. Use model.{method}(data), or daskmoe.refine(model, data, rounds=1), which keeps it."
    )
