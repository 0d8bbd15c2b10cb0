"""Mixture-of-experts models of data that do not fit in memory."""

from importlib.metadata import version as _version

from daskmoe.api import fit, fit_local
from daskmoe.combine import aggregate
from daskmoe.divergence import transportation_divergence
from daskmoe.errors import (
    ConvergenceWarning,
    DaskMoEError,
    InvalidDataError,
    InvalidOptionError,
    NotAtOptimumError,
    OutputExistsError,
    PartitionError,
    SchemaError,
    StoreError,
)
from daskmoe.model import MixtureOfExperts, open_model
from daskmoe.refining import refine
from daskmoe.simulation import simulate

__version__ = _version("daskmoe")

__all__ = [
    "ConvergenceWarning",
    "DaskMoEError",
    "InvalidDataError",
    "InvalidOptionError",
    "MixtureOfExperts",
    "NotAtOptimumError",
    "OutputExistsError",
    "PartitionError",
    "SchemaError",
    "StoreError",
    "__version__",
    "aggregate",
    "fit",
    "fit_local",
    "open_model",
    "refine",
    "simulate",
    "transportation_divergence",
]
