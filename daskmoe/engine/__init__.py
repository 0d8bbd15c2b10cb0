"""Dask: what a task does with its partition, the graphs of them, and the one driver that runs a request."""

from daskmoe.engine.driver import Hooks, build_model, run, run_here, run_rounds
from daskmoe.engine.graph import build_fit, fit_directly
from daskmoe.engine.planning import plan_passes, plan_request
from daskmoe.engine.request import FitRequest, GivenSupport
from daskmoe.engine.results import FitResult, PartitionResult

__all__ = [
    "FitRequest",
    "FitResult",
    "GivenSupport",
    "Hooks",
    "PartitionResult",
    "build_fit",
    "build_model",
    "fit_directly",
    "plan_passes",
    "plan_request",
    "run",
    "run_here",
    "run_rounds",
]
