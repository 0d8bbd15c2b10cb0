"""Mixture-of-experts models of data that do not fit in memory."""

from importlib.metadata import version as _version

from daskmoe import features
from daskmoe.api.aggregate import aggregate
from daskmoe.api.divergence import transportation_divergence
from daskmoe.api.fit import fit, fit_local
from daskmoe.api.preview import Preview, preview
from daskmoe.api.refine import refine
from daskmoe.api.select import select_n_experts
from daskmoe.api.simulate import simulate
from daskmoe.api.sweep import sweep_checkpoint
from daskmoe.api.update import update
from daskmoe.engine.sweeping import Swept
from daskmoe.errors import (
    ClusterError,
    ConvergenceWarning,
    DaskMoEError,
    DataWarning,
    FitWarning,
    IdentificationWarning,
    InvalidDataError,
    InvalidOptionError,
    NotAtOptimumError,
    NotFittedError,
    OutputExistsError,
    PartitionError,
    SchemaError,
    StoreError,
    TooFewRowsError,
)
from daskmoe.estimators import MoEClassifier, MoERegressor
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms, open_model
from daskmoe.model.selection import Selection
from daskmoe.model.transport import TransportPlan
from daskmoe.plotting import Pictures as _Pictures  # noqa: F401 - gives models their `plot`

__version__ = _version("daskmoe")

__all__ = [
    "ClusterError",
    "ConvergenceWarning",
    "DaskMoEError",
    "DataWarning",
    "FitWarning",
    "IdentificationWarning",
    "InvalidDataError",
    "InvalidOptionError",
    "MixtureOfExperts",
    "MixtureWithAtoms",
    "MoEClassifier",
    "MoERegressor",
    "NotAtOptimumError",
    "NotFittedError",
    "OutputExistsError",
    "PartitionError",
    "Preview",
    "SchemaError",
    "Selection",
    "StoreError",
    "Swept",
    "TooFewRowsError",
    "TransportPlan",
    "__version__",
    "aggregate",
    "features",
    "fit",
    "fit_local",
    "open_model",
    "preview",
    "refine",
    "select_n_experts",
    "simulate",
    "sweep_checkpoint",
    "transportation_divergence",
    "update",
]


def __dir__() -> list[str]:
    return __all__
