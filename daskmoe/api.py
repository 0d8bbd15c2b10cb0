"""The public functions: fit, fit_local, aggregate, simulate."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed

from daskmoe.assembly import label_fit
from daskmoe.config import AGGREGATIONS, ON_ERROR, LocalFitOptions, check_choice, check_integer
from daskmoe.engine import FitRequest, build_fit, fit_directly
from daskmoe.engine.refine import refine_rounds
from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureOfExperts
from daskmoe.random import RandomState, entropy_of
from daskmoe.refining import Rounds, check_rounds, label_refinement
from daskmoe.request import Data, source_of
from daskmoe.rows import (
    Partition,
    RowSchema,
    SampleRun,
    describe_rows,
    plan_partitions,
    plan_sample,
)

_PILOT_ROWS = 10_000
_LARGEST_PILOT_ROWS = 30_000


@overload
def fit(
    data: Data, target: str, *, n_experts: int, compute: Literal[True] = ..., **options: Any
) -> MixtureOfExperts: ...
@overload
def fit(data: Data, target: str, *, n_experts: int, compute: Literal[False], **options: Any) -> Delayed: ...
# The options are spelled out once, here; the overloads only tell the two results apart.
def fit(  # type: ignore[misc]
    data: Data,
    target: str,
    *,
    features: str | Sequence[str] | None = None,
    n_experts: int,
    family: str = "gaussian",
    partitions: int | str | None = None,
    aggregation: str = "auto",
    support_size: int = 2000,
    refine: Rounds = 0,
    random_state: RandomState = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    compute: bool = True,
    sample_weight: str | None = None,
    n_init: int = 12,
    start_rows: int = 2000,
) -> MixtureOfExperts | Delayed:
    """Fit a mixture of experts to partitioned data in one pass and one communication step.

    Every partition is fitted on its own by penalized maximum likelihood of
    f(y|x) = sum_k pi_k(x) phi_k(y|x); the local estimators are aggregated by optimal transport to the
    K-expert model at the least transportation divergence from their weighted average.

    Parameters
    ----------
    data : xr.Dataset or path
        The data, in memory or lazy, or the path or URL of a Zarr store, which tasks open themselves.
    target : str
        The response variable; its dimensions are the sample dimensions.
    features : str or sequence of str, optional
        Feature variables; by default every other variable that fits. One has the sample dimensions or some of
        them, plus at most one more, whose labels name several features.
    n_experts : int
        K.
    family : {"gaussian"}
        Density of the experts.
    partitions : int or str, optional
        None follows the target's chunks; an integer makes that many row ranges; the name of a coordinate
        makes one partition a value.
    aggregation : {"auto", "reduction"}
        How local estimators become one model; see `docs/`.
    support_size : int
        S, rows of features at which expectations over x are taken.
    refine : int or "converged"
        Most rounds over all partitions after the aggregation (see `daskmoe.refine`); "converged" goes on to
        the global estimator.
    random_state : int, SeedSequence, Generator or None
        Partition m draws from ``SeedSequence(seed, spawn_key=(m,))``, so the result does not depend on the
        scheduler or the number of workers.
    checkpoint : path, optional
        Folder where finished partitions are kept; a rerun with the same data and options goes on from there.
        With ``random_state=None`` the seed is then 0, as a rerun could not repeat a fresh one.
    on_error : {"raise", "skip"}
        "skip" leaves out rows with missing values and partitions that fail, and reports them in
        ``diagnostics``.
    compute : bool
        False returns the `Delayed` model; building the graph computes nothing.
    sample_weight : str, optional
        Variable of row weights, zero or more.
    n_init, start_rows : int
        Starts of a local fit and the rows they race on.

    Returns
    -------
    MixtureOfExperts or Delayed

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError
        Before any work, for options or data that cannot be fitted.
    InvalidDataError, PartitionError
        From a task, naming the partition, unless ``on_error="skip"``.

    References
    ----------
    F. Chamroukhi and N. T. Pham, Optimal Transport Aggregation for Distributed Mixture-of-Experts,
    arXiv:2312.09877.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, chunks=500, random_state=0)
    >>> model = daskmoe.fit(data, "y", features="X", n_experts=2, random_state=0)
    >>> model.n_experts, model.diagnostics.sizes["partition"]
    (2, 4)
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    rounds = check_rounds(refine, 0)
    if rounds != 0 and not compute:
        raise InvalidOptionError(
            "compute: expected True with refinement, whose rounds depend on each other, got False. "
            "Compute the model, then use daskmoe.refine."
        )
    options = LocalFitOptions(n_experts=n_experts, family=family, n_init=n_init, start_rows=start_rows)
    request = _request(
        data, target, features, partitions, sample_weight, options, support_size, random_state, on_error,
        checkpoint, aggregation,
    )  # fmt: skip
    recorded = _recorded(request, aggregation=aggregation, refine=refine)
    label = delayed(label_fit, pure=False, traverse=False)
    key = f"moe-model-{tokenize(request.token, recorded)}"
    model = label(build_fit(request), request.schema, family, recorded, dask_key_name=key)
    if not compute:
        return cast(Delayed, model)
    fitted = cast(MixtureOfExperts, model.compute())
    if rounds == 0:
        return fitted
    return label_refinement(fitted, refine_rounds(request, fitted.parameters, rounds, None))


def fit_local(
    data: Data,
    target: str,
    *,
    features: str | Sequence[str] | None = None,
    n_experts: int,
    family: str = "gaussian",
    random_state: RandomState = None,
    on_error: str = "raise",
    sample_weight: str | None = None,
    n_init: int = 12,
    start_rows: int = 2000,
) -> MixtureOfExperts:
    """Fit all rows at once, in this process and in memory: the global estimator G of the paper.

    The parameters are those of `fit`, of which this is the case of one partition.

    Returns
    -------
    MixtureOfExperts

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError
        For options or data that cannot be fitted.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, random_state=0)
    >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
    >>> bool(model.log_likelihood(data) > truth.log_likelihood(data))
    True
    """
    options = LocalFitOptions(n_experts=n_experts, family=family, n_init=n_init, start_rows=start_rows)
    request = _request(
        data, target, features, 1, sample_weight, options, 1, random_state, on_error, None
    )  # fmt: skip
    return label_fit(fit_directly(request), request.schema, family, _recorded(request))


def _request(
    data: Data,
    target: str,
    features: str | Sequence[str] | None,
    partitions: int | str | None,
    sample_weight: str | None,
    options: LocalFitOptions,
    support_size: int,
    random_state: RandomState,
    on_error: str,
    checkpoint: str | os.PathLike[str] | None,
    aggregation: str = "reduction",
) -> FitRequest:
    """Validate everything that can be before data are read."""
    check_integer("support_size", support_size, 1)
    check_choice("on_error", on_error, ON_ERROR)
    dataset, source = source_of(data)
    schema = describe_rows(dataset, target, features, sample_weight)
    planned = plan_partitions(dataset, schema, partitions)
    if on_error == "raise":
        _check_sizes(planned, schema, options.n_experts)
    _check_folder(checkpoint)
    seed = entropy_of(0 if random_state is None and checkpoint is not None else random_state)
    shared_start = aggregation == "auto" and len(planned) > 1
    return FitRequest(
        source=source,
        schema=schema,
        partitions=planned,
        options=options,
        support_size=support_size,
        seed=seed,
        on_error=cast(Literal["raise", "skip"], on_error),
        checkpoint=None if checkpoint is None else os.path.abspath(os.fspath(checkpoint)),
        sample=_plan_pilot(dataset, schema, seed) if shared_start else (),
    )


def _check_folder(checkpoint: str | os.PathLike[str] | None) -> None:
    if checkpoint is not None and os.path.exists(checkpoint) and not os.path.isdir(checkpoint):
        raise InvalidOptionError(f"checkpoint: expected a folder, got the file {os.fspath(checkpoint)!r}.")


def _plan_pilot(dataset: xr.Dataset, schema: RowSchema, seed: int) -> tuple[SampleRun, ...]:
    """The sample of the shared start: 5 % of the rows, at least 10,000, at most 30,000."""
    rows = math.prod(dataset.sizes[dim] for dim in schema.sample_dims)
    size = min(max(_PILOT_ROWS, rows // 20), _LARGEST_PILOT_ROWS)
    return plan_sample(dataset, schema, size, np.random.default_rng(seed))


def _check_sizes(partitions: tuple[Partition, ...], schema: RowSchema, n_experts: int) -> None:
    least = max(2, n_experts)
    small = [p for p in partitions if p.n_rows < least]
    if small:
        names = ", ".join(f"{p.label!r} ({p.n_rows} rows)" for p in small[:5])
        raise InvalidDataError(
            f"Expected partitions of {schema.target!r} with at least {least} rows for {n_experts} experts, "
            f"got {len(small)} smaller: {names}. Use fewer partitions (partitions=...), larger chunks, or "
            "on_error='skip' to leave them out."
        )


def _recorded(request: FitRequest, **more: Any) -> dict[str, Any]:
    """Options that a model remembers; JSON can hold them."""
    options = request.options
    return {
        "n_experts": options.n_experts,
        "n_init": options.n_init,
        "start_rows": options.start_rows,
        "support_size": request.support_size,
        "random_state": str(request.seed),
        "partitions": len(request.partitions),
        "on_error": request.on_error,
        **more,
    }
