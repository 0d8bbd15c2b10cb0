"""Sums over all partitions that are kept, and their parts until the sum is: scores, rounds of refinement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dask.base import tokenize
from dask.tokenize import TokenizationError

from daskmoe.engine.checkpoint import forget, keep, load
from daskmoe.engine.keeping import identity_of, name_of
from daskmoe.engine.results import Counted
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.numerics.base.observations import Observations
from daskmoe.rows import Partition
from daskmoe.rows.contents import Content

logger = logging.getLogger(__name__)


class Known(NamedTuple):
    """What a pass is to find, and what a checkpoint has of it."""

    # None where nothing is left to do.
    function: Callable[[Observations], Any] | None
    # Tells the function from others; empty where nothing can.
    mark: str
    # The sum over all partitions, where it is kept.
    total: Counted | None


def find_sum(
    plan: TaskPlan,
    function: Callable[[Observations], Any] | None,
    partitions: Sequence[Partition],
    contents: Sequence[Content | None],
) -> Known:
    """What is left to be asked of partitions, of which a checkpoint may have the sum."""
    if function is None:
        return Known(None, "", None)
    try:
        mark = str(tokenize(function, ensure_deterministic=True))
    except TokenizationError as error:
        # As of a family of a caller's own, which another process may not know again.
        logger.info("nothing is kept of this pass: %s", error)
        mark = ""
    known = Known(function, mark, None)
    name, folder = _sum_name(plan, known, partitions, contents), plan.checkpoint
    assert folder is not None
    total = None if name is None else load(folder, name)
    return known._replace(function=None, total=total) if isinstance(total, Counted) else known


def keep_sum(
    plan: TaskPlan,
    known: Known,
    total: Counted,
    partitions: Sequence[Partition],
    contents: Sequence[Content | None],
) -> Counted:
    """The sum over partitions, which is kept now, and its parts no more."""
    if known.function is None:
        return known.total or total
    name, folder = _sum_name(plan, known, partitions, contents), plan.checkpoint
    assert folder is not None
    if name is not None and total.whole and not keep(folder, name, total):
        pairs = zip(partitions, contents, strict=True)
        names = [part_name(plan, known, partition, content) for partition, content in pairs]
        forget(folder, [each for each in names if each is not None])
    return total


def part_name(plan: TaskPlan, known: Known, partition: Partition, content: Content | None) -> str | None:
    """The name of a partition's part of a sum; None where it cannot be kept."""
    if content is None or not known.mark:
        return None
    return name_of("moe-part", plan, [identity_of(partition, content), known.mark], partition.index)


def kept_part(plan: TaskPlan, name: str) -> Counted | None:
    """The part of a sum that is kept under a name, if there is one."""
    assert plan.checkpoint is not None
    found = load(plan.checkpoint, name)
    return found if isinstance(found, Counted) else None


def _sum_name(
    plan: TaskPlan, known: Known, partitions: Sequence[Partition], contents: Sequence[Content | None]
) -> str | None:
    pairs = zip(partitions, contents, strict=True)
    identities = [identity_of(partition, content) for partition, content in pairs if content is not None]
    if len(identities) < len(contents) or not known.mark:
        return None
    return name_of("moe-sum", plan, [*identities, known.mark])
