"""From what a caller asks for to a validated request, before any data are read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import xarray as xr

from daskmoe.engine import FitRequest, GivenSupport
from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.options import ON_ERROR, SUPPORTS, RandomState, check_choice, check_integer, entropy_of
from daskmoe.rows import (
    Data,
    Partition,
    RowSchema,
    SampleWindow,
    describe_rows,
    match_schema,
    plan_partitions,
    plan_sample,
    source_of,
)

_PILOT_ROWS = 10_000
_LARGEST_PILOT_ROWS = 30_000
# Where rows may be masked, so many times as many are drawn.
_SPARE = 10


def plan_request(
    data: Data,
    target: str,
    features: str | Sequence[str] | None,
    partitions: int | str | None,
    sample_weight: str | None,
    options: LocalFit,
    support_size: int,
    random_state: RandomState,
    on_error: str,
    checkpoint: str | os.PathLike[str] | None,
    aggregation: str = "reduction",
    n_experts: int | None = None,
    support: str | Data = "labelled",
) -> FitRequest:
    """Validate everything that can be before data are read."""
    support_size = check_integer("support_size", support_size, 1)
    check_choice("on_error", on_error, ON_ERROR)
    _check_names(target, features)
    dataset, source = source_of(data)
    schema = describe_rows(dataset, target, features, sample_weight)
    planned = plan_partitions(dataset, schema, partitions)
    _check_folder(checkpoint)
    seed = entropy_of(0 if random_state is None and checkpoint is not None else random_state)
    chosen = _support(support, schema)
    shared_start = aggregation == "auto" and chosen == "labelled" and len(planned) > 1
    if shared_start:
        _check_shared_size(n_experts, options.n_experts)
        _check_rows(planned, schema, options.n_experts)
    else:
        _check_estimator(aggregation, n_experts, options.n_experts, len(planned))
    if on_error == "raise" and not shared_start:
        _check_sizes(planned, schema, options.n_experts)
    return FitRequest(
        source=source,
        schema=schema,
        partitions=planned,
        options=options,
        support_size=support_size,
        seed=seed,
        on_error=cast(Literal["raise", "skip"], on_error),
        checkpoint=None if checkpoint is None else os.path.abspath(os.fspath(checkpoint)),
        sample=_plan_pilot(dataset, schema, seed, on_error) if shared_start else (),
        sample_rows=_pilot_rows(dataset, schema),
        method=aggregation,
        n_experts=n_experts,
        support=chosen,
    )


def _check_names(target: Any, features: Any) -> None:
    if not isinstance(target, str):
        raise InvalidOptionError(f"target: expected the name of a variable, got {type(target).__name__}.")
    if isinstance(features, xr.DataArray | xr.Variable | xr.Dataset):
        raise InvalidOptionError(
            f"features: expected names of variables, got an xarray {type(features).__name__}."
        )


def _support(support: str | Data, schema: RowSchema) -> str | GivenSupport:
    """What the support is made of: a word of `SUPPORTS`, or the caller's own rows, matched to the fit's."""
    if isinstance(support, str) and support in SUPPORTS:
        return support
    if isinstance(support, str) and not os.path.exists(support) and "://" not in support:
        raise InvalidOptionError(
            f"support: expected one of {list(SUPPORTS)}, a dataset or the path of a Zarr store, "
            f"got {support!r}."
        )
    dataset, source = source_of(support, "support")
    return GivenSupport(source, match_schema(dataset, schema, need_target=False, need_weight=False))


def _check_shared_size(n_experts: int | None, n_local_experts: int) -> None:
    if n_experts not in (None, n_local_experts):
        raise InvalidOptionError(
            f"n_local_experts: expected {n_experts}, as the shared start has, got {n_local_experts}. "
            "Use support='features' or another aggregation."
        )


def _check_estimator(aggregation: str, n_experts: int | None, n_local_experts: int, partitions: int) -> None:
    """Refuse what no local fits could be aggregated to."""
    if n_experts is None or n_experts == n_local_experts:
        return
    if aggregation in ("middle", "aligned"):
        raise InvalidOptionError(
            f"n_local_experts: expected {n_experts}, as the result has with aggregation={aggregation!r}, got "
            f"{n_local_experts}. Use aggregation='reduction' or 'greedy'."
        )
    if aggregation != "weighted" and n_experts > partitions * n_local_experts:
        raise InvalidOptionError(
            f"n_experts: expected at most {partitions * n_local_experts}, the experts of all partitions "
            f"together, got {n_experts}."
        )


def _check_folder(checkpoint: str | os.PathLike[str] | None) -> None:
    if checkpoint is not None and os.path.exists(checkpoint) and not os.path.isdir(checkpoint):
        raise InvalidOptionError(f"checkpoint: expected a folder, got the file {os.fspath(checkpoint)!r}.")


def _pilot_rows(dataset: xr.Dataset, schema: RowSchema) -> int:
    """Size of the sample of the shared start: 5 % of the rows, at least 10,000, at most 30,000."""
    rows = math.prod(dataset.sizes[dim] for dim in schema.sample_dims)
    return min(max(_PILOT_ROWS, rows // 20), _LARGEST_PILOT_ROWS)


def _plan_pilot(dataset: xr.Dataset, schema: RowSchema, seed: int, on_error: str) -> tuple[SampleWindow, ...]:
    """That sample; more rows are drawn where some may be masked, so that enough are left."""
    masked = on_error == "skip" or schema.weight is not None
    size = _pilot_rows(dataset, schema) * (_SPARE if masked else 1)
    return plan_sample(dataset, schema, size, np.random.default_rng(seed))


def _check_rows(partitions: tuple[Partition, ...], schema: RowSchema, n_experts: int) -> None:
    """Partitions of any size join a fit from a shared start, which needs rows enough."""
    least, rows = max(2, n_experts), sum(partition.n_rows for partition in partitions)
    if rows < least:
        raise InvalidDataError(
            f"Expected at least {least} rows of {schema.target!r} for {n_experts} experts, got {rows}."
        )


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


def recorded_options(request: FitRequest, **more: Any) -> dict[str, Any]:
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
