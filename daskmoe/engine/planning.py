"""From what a caller asks for to a validated request, before any data are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import xarray as xr

from daskmoe.engine.given_support import plan_support
from daskmoe.engine.request import FitRequest, GivenSupport
from daskmoe.engine.seeds import Seed, generator
from daskmoe.errors import InvalidDataError, InvalidOptionError, TooFewRowsError
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.combine.registry import AGGREGATORS
from daskmoe.numerics.families import Family, get_family
from daskmoe.options import SUPPORTS, FitOptions
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
from daskmoe.rows.atoms import find_atoms
from daskmoe.rows.chunks import MissingChunks, find_missing_chunks
from daskmoe.rows.learning import find_weight_factor
from daskmoe.rows.partitions import cluster_variable
from daskmoe.rows.sampling import without_partitions
from daskmoe.rows.stores import OBJECT
from daskmoe.rows.variables import listed

_PILOT_ROWS = 10_000
_LARGEST_PILOT_ROWS = 30_000
# For every parameter, at least: from fewer the search ends where chance leads it (local_estimator: Many
# parameters).
_PARAMETER_PILOT_ROWS = 8
# Where rows may be masked, so many times as many are drawn.
_SPARE = 10


def plan_request(data: Data, target: str, options: FitOptions) -> FitRequest:
    """A request to fit, with everything validated that can be before data are read."""
    if not isinstance(target, str):
        raise InvalidOptionError(
            f"target: expected the name of a variable, which is text, got {type(target).__name__}. Where "
            "names are none: data.rename({name: str(name) for name in data.variables})."
        )
    _check_offset(options)
    _check_scale(options)
    dataset, source = source_of(data)
    schema = describe_rows(
        dataset,
        target,
        options.features,
        options.sample_weight,
        options.categories,
        options.gate_features,
        options.offset,
        output_dim=options.output_dim,
        labels=get_family(options.family).nominal,
    )
    options = _with_scales(options, schema)
    if options.atoms is not None:
        schema = replace(schema, atoms=find_atoms(dataset, target, options.atoms))
    schema = _weighed(dataset, schema, options)
    support = _support(options, schema)
    request = replace(_request(dataset, source, schema, options), support=support)
    request = _with_missing_chunks(request)
    partitions, size = request.partitions, options.local.n_experts
    _check_rows(partitions, schema, options.local)
    if isinstance(options.min_success, int) and options.min_success > len(partitions):
        raise InvalidOptionError(
            f"min_success: expected at most the {len(partitions)} partitions, got {options.min_success}."
        )
    if options.aggregation == "auto" and support == "labelled" and len(partitions) > 1:
        _check_shared_size(options)
        rows = _pilot_rows(dataset, schema, options.local)
        return replace(request, sample=_plan_pilot(dataset, schema, rows, options), sample_rows=rows)
    _check_estimator(options, len(partitions))
    if options.on_error == "raise":
        _check_sizes(partitions, schema, size)
    return request


def with_size(request: FitRequest, n_experts: int) -> FitRequest:
    """The same request for another number of experts, checked again where that matters.

    Raises
    ------
    TooFewRowsError, InvalidDataError
        As `plan_request`.
    """
    options = replace(request.options, n_experts=n_experts, n_local_experts=None)
    _check_rows(request.partitions, request.schema, options.local)
    if not request.sample and options.on_error == "raise":
        _check_sizes(request.partitions, request.schema, n_experts)
    return replace(request, options=options)


def of_presence(request: FitRequest) -> FitRequest:
    """The request for the gates of the atoms: which atom every row's target is at, if any.

    A single categorical expert, from the same partitions, sample and support as the other experts.
    """
    support = request.support
    if isinstance(support, GivenSupport):
        support = support._replace(schema=replace(support.schema, atoms=request.schema.atoms).of_presence())
    options = replace(
        request.options,
        family="categorical",
        n_experts=1,
        n_local_experts=None,
        atoms=None,
        offset=None,
        min_scale=None,
    )
    return replace(request, schema=request.schema.of_presence(), options=options, support=support)


def hold_out(request: FitRequest, share: float) -> tuple[FitRequest, FitRequest]:
    """Two requests: for the partitions that are fitted, and for those that are held out.

    The held out ones are drawn evenly over the partitions, and the sample of the shared start has none of
    their rows, unless partitions are values of a coordinate, whose rows may lie anywhere.
    """
    count = len(request.partitions)
    n_held = max(2, round(share * count))
    if count - n_held < 2:
        raise InvalidOptionError(
            f"held_out: expected at least two partitions to fit and two to hold out, got {count} in all, of "
            f"which {share:.0%} are {n_held}. Divide the rows further, as with partitions=20."
        )
    rng = generator(request.options.seed, Seed.HELD_OUT)
    bounds = np.linspace(0, count, n_held + 1).astype(np.int64).tolist()
    chosen = {int(rng.integers(low, high)) for low, high in pairwise(bounds)}
    kept = [part for part in request.partitions if part.index not in chosen]
    held = [part for part in request.partitions if part.index in chosen]
    sample = tuple(without_partitions(request.sample, held))
    return (
        replace(request, partitions=_renumbered(kept), sample=sample, divided=_numbers_of(kept)),
        replace(request, partitions=_renumbered(held), sample=(), divided=_numbers_of(held)),
    )


def _numbers_of(partitions: list[Partition]) -> tuple[int, ...]:
    return tuple(part.index for part in partitions)


def _renumbered(partitions: list[Partition]) -> tuple[Partition, ...]:
    return tuple(replace(part, index=index) for index, part in enumerate(partitions))


def plan_passes(data: Data, rows: RowSchema, options: FitOptions, cluster: str | None = None) -> FitRequest:
    """A request to pass over the data of a model that is at hand, its rows matched by label."""
    dataset, source = source_of(data, dim=rows.row_dim)
    schema = _weighed(dataset, match_schema(dataset, rows, need_target=True), options)
    assert isinstance(options.support, str)
    request = replace(_request(dataset, source, schema, options), support=options.support)
    if cluster is not None:
        request = replace(request, cluster=cluster_variable(dataset, schema, cluster))
    return _with_missing_chunks(request)


def _weighed(dataset: xr.Dataset, schema: RowSchema, options: FitOptions) -> RowSchema:
    """The schema with weights that sum to the number of rows, where only their proportions matter."""
    if schema.weight is None or options.weight_kind == "frequency":
        return replace(schema, weight_factor=1.0)
    return replace(schema, weight_factor=find_weight_factor(dataset.variables[schema.weight]))


def _request(
    dataset: xr.Dataset, source: str | xr.Dataset, schema: RowSchema, options: FitOptions
) -> FitRequest:
    return FitRequest(source, schema, plan_partitions(dataset, schema, options.partitions), options)


def _with_missing_chunks(request: FitRequest) -> FitRequest:
    """The request with what its store misses; `InvalidDataError` if the options say so."""
    how, source = request.options.missing_chunks, request.source
    store = source if isinstance(source, str) else source.encoding.get(OBJECT)
    if how == "fill" or store is None:
        return request
    missing = tuple(find_missing_chunks(store, request.used, request.partitions))
    if missing and how == "raise":
        raise InvalidDataError(say_missing_chunks(missing))
    return replace(request, missing_chunks=missing)


def say_missing_chunks(missing: Sequence[MissingChunks]) -> str:
    """What is missing, where, and what mends it."""
    labels = list(dict.fromkeys(label for each in missing for label in each.partitions))
    where = f"partition{'s' if len(labels) > 1 else ''} {listed(labels, 10)}"
    return (
        "Expected every chunk in the store, got some that were never written: "
        f"{'; '.join(map(str, missing))}. They are in {where}. Write them, or leave these rows out "
        "(data.isel(...)); missing_chunks='fill' takes what is read there as data."
    )


def _support(options: FitOptions, schema: RowSchema) -> str | GivenSupport:
    """What the support is made of: a word of `SUPPORTS`, or the caller's own rows, matched to the fit's."""
    if isinstance(options.support, str) and options.support in SUPPORTS:
        return options.support
    dataset, source = source_of(options.support, "support", schema.row_dim)
    matched = match_schema(dataset, schema, need_target=False, need_weight=False)
    return GivenSupport(source, matched, plan_support(source, matched, options.seed))


def _check_offset(options: FitOptions) -> None:
    if options.offset is not None and not get_family(options.family).takes_offset:
        raise InvalidOptionError(
            f"offset: expected a family with a logarithm as link, got family={options.family!r}. Use "
            "family='poisson' or 'gamma', take the variable off a target of numbers, or make it a feature."
        )


def _check_scale(options: FitOptions) -> None:
    if options.min_scale is not None and not get_family(options.family).n_nuisances:
        raise InvalidOptionError(
            f"min_scale: expected None with family={options.family!r}, whose experts have no scale of their "
            f"own, got {options.min_scale}. Leave it out."
        )


def _with_scales(options: FitOptions, schema: RowSchema) -> FitOptions:
    """The options with a least scale for every output in their order, where there is more than one number."""
    scales = options.min_scale
    if scales is None or isinstance(scales, float):
        return options
    if schema.output_dim is None:
        raise InvalidOptionError(
            f"min_scale: expected one number for a target of one output, got {scales!r}. Give the number."
        )
    outputs = list(schema.outputs)
    if isinstance(scales, Mapping):
        if set(scales) != set(outputs):
            raise InvalidOptionError(
                f"min_scale: expected a number for each of the outputs {outputs}, got those for "
                f"{list(scales)}. Give one for every label."
            )
        return replace(options, min_scale=tuple(scales[label] for label in outputs))
    if len(scales) != len(outputs):
        raise InvalidOptionError(
            f"min_scale: expected one number or {len(outputs)}, as the outputs {outputs}, got {len(scales)}. "
            "Give one an output, in their order or by label."
        )
    return options


def _check_shared_size(options: FitOptions) -> None:
    if options.n_experts != options.local.n_experts:
        raise InvalidOptionError(
            f"n_local_experts: expected {options.n_experts}, as the shared start has, got "
            f"{options.local.n_experts}. Use support='features' or another aggregation."
        )


def _check_estimator(options: FitOptions, partitions: int) -> None:
    """Refuse what no local fits could be aggregated to."""
    aggregation, n_experts = options.aggregation, options.n_experts
    n_local_experts = options.local.n_experts
    # Without a shared start "auto" is made of what "reduction" is made of.
    kind = AGGREGATORS["reduction" if aggregation == "auto" else aggregation]
    if n_experts == n_local_experts:
        return
    if kind.same_size:
        raise InvalidOptionError(
            f"n_local_experts: expected {n_experts}, as the result has with aggregation={aggregation!r}, got "
            f"{n_local_experts}. Use aggregation='reduction' or 'greedy'."
        )
    if not kind.nested and n_experts > partitions * n_local_experts:
        raise InvalidOptionError(
            f"n_experts: expected at most {partitions * n_local_experts}, the experts of all partitions "
            f"together, got {n_experts}."
        )


def _pilot_rows(dataset: xr.Dataset, schema: RowSchema, local: LocalFit) -> int:
    """Size of the sample of the shared start: 5 % of the rows, at least 10,000, at most 30,000.

    With many parameters more, 8 rows for each.
    """
    rows = math.prod(dataset.sizes[dim] for dim in schema.sample_dims)
    size = _free_parameters(local.n_experts, schema, get_family(local.family, schema.n_classes))
    return max(min(max(_PILOT_ROWS, rows // 20), _LARGEST_PILOT_ROWS), _PARAMETER_PILOT_ROWS * size)


def _plan_pilot(
    dataset: xr.Dataset, schema: RowSchema, rows: int, options: FitOptions
) -> tuple[SampleWindow, ...]:
    """That sample; more rows are drawn where some may be masked, so that enough are left."""
    masked = options.on_error == "skip" or schema.weight is not None or bool(schema.atoms)
    rng = generator(options.seed, Seed.PILOT_ROWS)
    return plan_sample(dataset, schema, rows * (_SPARE if masked else 1), rng)


def _check_rows(partitions: tuple[Partition, ...], schema: RowSchema, local: LocalFit) -> None:
    """Refuse fewer rows in all than several experts have parameters: where any search would end is chance.

    A single expert has its least squares.
    """
    rows, n_features = sum(partition.n_rows for partition in partitions), len(schema.feature_labels)
    family = get_family(local.family, schema.response_size)
    size = _free_parameters(local.n_experts, schema, family)
    if local.n_experts == 1 and rows < 2:
        raise InvalidDataError(f"Expected at least 2 rows of {schema.target!r} for 1 expert, got {rows}.")
    if local.n_experts > 1 and rows < size:
        fewer = range(local.n_experts - 1, 1, -1)
        raise TooFewRowsError(
            f"Expected at least {size} rows of {schema.target!r}, one for every free parameter of "
            f"{local.n_experts} experts with {n_features} features, got {rows}. Use fewer features "
            "(features=...) or fewer experts (n_experts=...).",
            next((k for k in fewer if _free_parameters(k, schema, family) <= rows), 1),
        )


def _free_parameters(n_experts: int, schema: RowSchema, family: Family) -> int:
    q_gate, q_expert = len(schema.gate_labels) + 1, len(schema.expert_labels) + 1
    return Layout(n_experts, q_gate, q_expert, family.n_predictors, family.n_nuisances).size


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
