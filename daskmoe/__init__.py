"""Mixture-of-experts models of data that do not fit in memory."""

from importlib.metadata import version as _version

from daskmoe import features
from daskmoe.api.aggregate import aggregate
from daskmoe.api.divergence import transportation_divergence
from daskmoe.api.fit import fit, fit_local
from daskmoe.api.refine import refine
from daskmoe.api.simulate import simulate
from daskmoe.errors import (
    ConvergenceWarning,
    DaskMoEError,
    DataWarning,
    FitWarning,
    IdentificationWarning,
    InvalidDataError,
    InvalidOptionError,
    NotAtOptimumError,
    OutputExistsError,
    PartitionError,
    SchemaError,
    StoreError,
)
from daskmoe.model import MixtureOfExperts, open_model
from daskmoe.plotting import Pictures as _Pictures  # noqa: F401 - gives models their `plot`

__version__ = _version("daskmoe")

__all__ = [
    "ConvergenceWarning",
    "DaskMoEError",
    "DataWarning",
    "FitWarning",
    "IdentificationWarning",
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
    "features",
    "fit",
    "fit_local",
    "open_model",
    "refine",
    "simulate",
    "transportation_divergence",
]


def __dir__() -> list[str]:
    return __all__
