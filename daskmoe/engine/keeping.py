"""What is kept of a partition in a checkpoint, and under which name.

A name has a digest of all that its entry depends on: the content of the rows, never where they are or when
they were written; what all tasks share (`TaskPlan.token`); and the shared start or the function of a pass.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from daskmoe.engine.checkpoint import keep, load, place_of
from daskmoe.engine.mapping import Ref, Tasks, is_lazy
from daskmoe.engine.request import FitRequest, piece_of, task_plan
from daskmoe.engine.results import PartitionResult
from daskmoe.engine.seeds import Seed, sequence
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.rows import Partition
from daskmoe.rows.contents import Content, content_of_box, content_of_stored, mark_of_stored
from daskmoe.rows.retrying import retrying

logger = logging.getLogger(__name__)

# Of a digest, as many as no two things share by chance.
_LETTERS = 32
_CHANGED = "its rows changed while they were read"


def find_contents(tasks: Tasks, request: FitRequest, plan: Ref) -> list[Any]:
    """The content of every partition, or the task that finds it; None for each without a checkpoint."""
    if request.options.checkpoint is None:
        return [None] * len(request.partitions)
    return list(request.contents) or [
        _find_content(tasks, request, plan, partition) for partition in request.partitions
    ]


def build_contents(request: FitRequest) -> Delayed:
    """The graph that finds the contents of all partitions, a list."""
    tasks, token = Tasks(), request.token
    plan = tasks.put(f"moe-plan-{token}", task_plan(request))
    return tasks.result(tasks.call(f"moe-contents-{token}", list, find_contents(tasks, request, plan)))


def _find_content(tasks: Tasks, request: FitRequest, plan: Ref, partition: Partition) -> Content | Ref:
    piece = piece_of(request, partition)
    if piece is not None and not is_lazy(piece):
        return content_of_box(piece)
    return tasks.call(f"moe-content-{request.token}-{partition.index}", read_content, plan, partition, piece)


def read_content(plan: TaskPlan, partition: Partition, piece: xr.Dataset | None) -> Content | None:
    """The content of a partition; None where it cannot be read, which is for the fit to say."""
    if plan.source is None:
        assert piece is not None
        return content_of_box(piece)
    source = plan.source
    try:
        return retrying(lambda: content_of_stored(source, plan.stored, partition), partition.name)
    # Every file system has errors of its own.
    except Exception as error:
        logger.info("%s: nothing is kept, as its files cannot be read: %s", partition.name, error)
        return None


def identity_of(partition: Partition, content: Content) -> str:
    """Tells rows at their place among all from any others."""
    return hashlib.sha256(f"{partition!r} {content.digest}".encode()).hexdigest()[:_LETTERS]


def name_of(kind: str, plan: TaskPlan, depends: Sequence[str], index: int | None = None) -> str:
    """The name of an entry that depends on these, and on what all tasks share."""
    digest = hashlib.sha256(" ".join([plan.token, plan.cluster or "", *depends]).encode()).hexdigest()
    return f"{kind}-{digest[:_LETTERS]}" if index is None else f"{kind}-{index}-{digest[:_LETTERS]}"


def mark_of_start(pilots: list[Pilot] | None) -> str:
    """What tells shared starts from others."""
    return str(tokenize(pilots, ensure_deterministic=True))


def fit_name(plan: TaskPlan, partition: Partition, content: Content, start: str) -> str:
    """The name of a partition's fit, from shared starts of this mark or its own."""
    return name_of("moe-local-fit", plan, [identity_of(partition, content), start], partition.index)


def kept_fit(plan: TaskPlan, partition: Partition, name: str, support_rows: int) -> PartitionResult | None:
    """The fit that is kept under a name, with so many rows of the support; None if there is none."""
    assert plan.checkpoint is not None
    found = load(plan.checkpoint, name)
    if not isinstance(found, PartitionResult):
        return None
    result = _with_support(plan, partition, found, support_rows)
    if result is None:
        return None
    logger.info("partition %s: taken from checkpoint %s", partition.label, place_of(plan.checkpoint, name))
    answers = [each._replace(ending=each.ending._replace(kept=True)) for each in result.answers]
    return result._replace(ending=answers[0].ending, rivals=tuple(answers[1:]))


def _with_support(
    plan: TaskPlan, partition: Partition, result: PartitionResult, n_rows: int
) -> PartitionResult | None:
    """The result with its share of the support, which falls as a store grows; None if it has too few rows."""
    wanted = min(n_rows if plan.sends.rows else 0, result.estimate.rows)
    found = len(result.support.weight)
    if found <= wanted:
        # Shares are rounded, so that one may be a row more than it was.
        return result if found >= wanted - 1 else None
    seeds = sequence(plan.options.seed, Seed.PARTITION, partition.index).spawn(3)
    chosen = np.zeros(found, np.bool_)
    chosen[np.random.default_rng(seeds[2]).choice(found, wanted, replace=False, shuffle=False)] = True
    return result._replace(support=result.support.where(chosen))


def keep_of_rows(
    plan: TaskPlan, partition: Partition, piece: xr.Dataset | None, content: Content, name: str, value: Any
) -> str:
    """Keep what was found of rows that have this content; why that was not possible, else nothing."""
    assert plan.checkpoint is not None
    try:
        same = _is_unchanged(plan, partition, piece, content)
    # Every file system has errors of its own, and what was found is found.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return keep(plan.checkpoint, name, value) if same else _CHANGED


def _is_unchanged(plan: TaskPlan, partition: Partition, piece: xr.Dataset | None, content: Content) -> bool:
    if plan.source is None:
        assert piece is not None
        return content_of_box(piece) == content
    source = plan.source
    return retrying(lambda: mark_of_stored(source, plan.stored, partition), partition.name) == content.mark
