"""Shared starts that are kept: a store that grew goes on from the one it has while that is of half its rows.

All expansions are around the shared start, so a new one is an expansion of every partition.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from daskmoe.engine.archive import register
from daskmoe.engine.checkpoint import keep, load, mark_used, names_in
from daskmoe.engine.keeping import identity_of, name_of
from daskmoe.engine.pilot import Sampled, fit_sample
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.rows import Partition
from daskmoe.rows.chunks import fingerprint
from daskmoe.rows.contents import Content

logger = logging.getLogger(__name__)

# Of the rows, those that a kept start must have been made for: as a store doubles there is a new one, and a
# partition is expanded again as many times as its store has doubled.
_LEAST_SHARE = 0.5


@register
class Start(NamedTuple):
    """An entry: shared starts."""

    pilots: list[Pilot]
    # Of the partitions that they were made for.
    identities: list[str]


class Search(NamedTuple):
    """What was found of shared starts before any rows are read."""

    # None where there is none for most of the rows.
    start: Start | None
    # Of the partitions.
    identities: list[str]
    # Of the store.
    fingerprint: str

    @property
    def sampled(self) -> bool:
        """Whether a sample of the rows is needed."""
        return self.start is None


def find_start(plan: TaskPlan, partitions: Sequence[Partition], contents: Sequence[Content | None]) -> Search:
    """The kept start that was made for most of these rows, if that is half of them."""
    assert plan.checkpoint is not None
    rows = {
        identity_of(partition, content): partition.n_rows
        for partition, content in zip(partitions, contents, strict=True)
        if content is not None
    }
    total = sum(partition.n_rows for partition in partitions)
    best, most, taken = None, 0, ""
    for name in names_in(plan.checkpoint, _kind(plan)):
        start = load(plan.checkpoint, name, use=False)
        if not isinstance(start, Start):
            continue
        same = sum(rows.get(each, 0) for each in start.identities)
        if {*start.identities} == {*rows}:
            best, most, taken = start, total + 1, name
        elif most < same >= _LEAST_SHARE * total:
            best, most, taken = start, same, name
    if best is not None:
        mark_used(plan.checkpoint, taken)
        logger.info("the shared start is kept, which was made for %d of %d rows", min(most, total), total)
    return Search(best, list(rows), _state_of(plan))


def start_of(plan: TaskPlan, samples: Sequence[Sampled], search: Search | None) -> list[Pilot]:
    """The shared starts that were found, else those of a sample, which are kept then."""
    if search is not None and search.start is not None:
        return search.start.pilots
    pilots = fit_sample(plan, samples)
    # Of a store that was written since, the sample is not of the rows that the search saw.
    if search is not None and search.fingerprint == _state_of(plan):
        assert plan.checkpoint is not None
        name = name_of(_kind(plan), plan, search.identities)
        keep(plan.checkpoint, name, Start(pilots, search.identities))
    return pilots


def _kind(plan: TaskPlan) -> str:
    return f"moe-start-{plan.token}"


def _state_of(plan: TaskPlan) -> str:
    return "" if plan.source is None else fingerprint(plan.source, [array.name for array in plan.stored])
