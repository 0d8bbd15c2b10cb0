"""Dask: what a task does with its partition, the graphs of them, and the one driver that runs a request."""

from daskmoe.engine.driver import Hooks, build_model, run, run_here, run_rounds, run_sizes, run_update
from daskmoe.engine.graph import build_fit, fit_directly
from daskmoe.engine.planning import hold_out, of_presence, plan_passes, plan_request, with_size
from daskmoe.engine.request import FitRequest, GivenSupport
from daskmoe.engine.results import FitResult, PartitionResult
from daskmoe.engine.sizes import log_likelihoods_by_partition
from daskmoe.engine.updates import Update

__all__ = [
    "FitRequest",
    "FitResult",
    "GivenSupport",
    "Hooks",
    "PartitionResult",
    "Update",
    "build_fit",
    "build_model",
    "fit_directly",
    "hold_out",
    "log_likelihoods_by_partition",
    "of_presence",
    "plan_passes",
    "plan_request",
    "run",
    "run_here",
    "run_rounds",
    "run_sizes",
    "run_update",
    "with_size",
]
