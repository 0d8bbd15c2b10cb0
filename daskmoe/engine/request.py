"""A validated request to fit: what it names, what its tasks share, and how its tasks are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from dask.base import tokenize

from daskmoe.engine.aggregation import AggregationPlan
from daskmoe.engine.identity import content_of, nonce_of
from daskmoe.engine.task_plan import Sends, TaskPlan
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.policies import MEMORY
from daskmoe.numerics.families import Family, get_family
from daskmoe.options import FitOptions
from daskmoe.rows import Partition, RowSchema, SampleWindow, read_box
from daskmoe.rows.chunks import MissingChunks, fingerprint
from daskmoe.rows.contents import Content, stored_arrays


class GivenSupport(NamedTuple):
    """Rows of the caller's own at which expectations over x are taken."""

    data: str | xr.Dataset
    # The fit's, matched to the data.
    schema: RowSchema
    # The rows to read.
    windows: tuple[SampleWindow, ...]


@dataclass(frozen=True)
class FitRequest:
    """A validated request: to fit, or to pass over the data of a model."""

    # Path or URL of a Zarr store, or a dataset, lazy or in memory.
    source: str | xr.Dataset
    schema: RowSchema
    partitions: tuple[Partition, ...]
    options: FitOptions
    # Rows of the pilot's sample; none where there is no shared start.
    sample: tuple[SampleWindow, ...] = ()
    # How many of these rows that are complete the pilot is fitted to.
    sample_rows: int = 0
    # One of `daskmoe.options.SUPPORTS`, or the caller's own rows.
    support: str | GivenSupport = "labelled"
    # The variable that tells the clusters of a pass for scores; None where they are the partitions.
    cluster: str | None = None
    # Chunks of the used variables of a store that are not there.
    missing_chunks: tuple[MissingChunks, ...] = ()
    # Numbers of the partitions that are held out, or that are kept where these are held out.
    divided: tuple[int, ...] = ()
    # What the rows of every partition are, where that is known before the graph is built.
    contents: tuple[Content | None, ...] = ()

    @cached_property
    def used(self) -> frozenset[str]:
        """The variables that rows are made of, and those that tell partitions and clusters."""
        names = {*self.schema.used(), self.cluster}
        names |= {part.where[0] for part in self.partitions if part.where is not None}
        return frozenset(name for name in names if name is not None)

    @cached_property
    def pieces(self) -> dict[tuple[Partition, bool], xr.Dataset]:
        """Those of a dataset that were cut out for partitions, with clusters or without."""
        return {}

    def fingerprint(self) -> str:
        """Of the used variables of a store as they are now; empty for a dataset."""
        return fingerprint(self.source, self.used) if isinstance(self.source, str) else ""

    @property
    def sends(self) -> Sends:
        """What a partition sends: rows if the support is made of them, responses if there is a pilot."""
        only = len(self.partitions) == 1
        # Of the only one it is what the model keeps.
        asked = self.n_parameters <= MEMORY.most_parameters if only else self.options.aggregation == "auto"
        alone = asked and not self.sample
        rows = self.support in ("labelled", "features")
        return Sends(rows, self.support == "labelled", alone)

    @property
    def seen(self) -> FitOptions:
        """The options as tasks see them; those of an only partition are for all rows."""
        seen = self.options.in_tasks()
        if len(self.partitions) > 1:
            return seen
        known = self.options.regularization.of_all_rows(self.options.n_experts, nominal=self.family.nominal)
        return replace(seen, prior_strength=known.strength)

    @property
    def n_parameters(self) -> int:
        """P of a local estimator."""
        q_gate, q_expert = len(self.schema.gate_labels) + 1, len(self.schema.expert_labels) + 1
        n_experts, family = self.options.local.n_experts, self.family
        return Layout(n_experts, q_gate, q_expert, family.n_predictors, family.n_nuisances).size

    @property
    def compares(self) -> bool:
        """Whether there is a choice between candidates, which takes another look at all rows."""
        return self.options.aggregation == "auto" and len(self.partitions) > 1 and self.options.n_experts > 1

    @cached_property
    def token(self) -> str:
        """Names the tasks: the same for the same data, options and seed, unless the data are behind a URL."""
        source = content_of(self.source, self.used), nonce_of(self.source)
        return str(tokenize(self.kept_token, source, self.partitions, self.sample))

    @cached_property
    def kept_token(self) -> str:
        """Names what is kept, beside the content of rows: store and partitions may grow, move and change."""
        seen = self.seen
        # Another version may fit the same request in another way.
        code = version("daskmoe"), seen.local
        schema = self.schema.identity()
        return str(tokenize(code, schema, seen, bool(self.sample), self.sends, self.divided))

    @property
    def family(self) -> Family:
        """The experts' densities, for as many classes as the target has."""
        return get_family(self.options.family, self.schema.response_size)

    @property
    def aggregation(self) -> AggregationPlan:
        """How the local estimators become one model."""
        options = self.options
        shares = tuple(support_shares(self))
        synthetic = self.support == "synthetic"
        return AggregationPlan(
            options.aggregation,
            options.n_experts,
            self.family,
            synthetic,
            shares,
            options.seed,
            options.regularization,
            options.min_success,
        )

    @property
    def recorded(self) -> dict[str, Any]:
        """The options that a model remembers; JSON can hold them."""
        return self.options.recorded() | {"partitions": len(self.partitions)}


def task_plan(request: FitRequest) -> TaskPlan:
    """What all tasks of a request share."""
    folder, source = request.options.checkpoint, request.source
    return TaskPlan(
        source=source if isinstance(source, str) else None,
        schema=request.schema,
        options=request.seen,
        checkpoint=None if folder is None else str(folder),
        token=request.kept_token if folder else "",
        sends=request.sends,
        sample_rows=request.sample_rows,
        job=request.token,
        stored=stored_arrays(source, request.used) if folder and isinstance(source, str) else (),
    )


def support_shares(request: FitRequest) -> list[int]:
    """Support rows of each partition, in proportion to its rows, at least one each."""
    cumulative = np.cumsum(np.asarray([p.n_rows for p in request.partitions], dtype=np.int64))
    total = int(cumulative[-1])
    size = min(request.options.support_size, total)
    # Differences of rounded cumulative quotas add up to the size exactly.
    bounds = np.concatenate([[0], np.rint(cumulative * (size / total)).astype(np.int64)])
    return [int(share) for share in np.maximum(np.diff(bounds), 1)]


def piece_of(request: FitRequest, partition: Partition, *, clusters: bool = False) -> xr.Dataset | None:
    """A partition's piece of a dataset; None where tasks open a store."""
    if isinstance(request.source, str):
        return None
    known = request.pieces.get((partition, clusters))
    if known is None:
        cluster = request.cluster if clusters else None
        known = read_box(request.source, request.schema, partition, cluster=cluster)
        request.pieces[partition, clusters] = known
    return known
