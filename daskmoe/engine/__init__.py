"""Dask: what a task does with its partition, and the graph that fits, aggregates and gives plain results."""

from daskmoe.engine.graph import build_fit, fit_directly
from daskmoe.engine.request import FitRequest, GivenSupport
from daskmoe.engine.results import FitResult, PartitionResult

__all__ = ["FitRequest", "FitResult", "GivenSupport", "PartitionResult", "build_fit", "fit_directly"]
