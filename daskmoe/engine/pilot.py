"""The shared start of all partitions: tasks that read a sample of the rows, and one that fits it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import xarray as xr

from daskmoe.engine.allocation import reused_memory
from daskmoe.engine.interrupts import StoppableRows, stoppable
from daskmoe.engine.seeds import Seed, generator
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.engine.tasks import attempt, load_rows, observations
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import DaskMoEError, InvalidDataError
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.numerics.combine.frames import without_rare_levels
from daskmoe.numerics.combine.pilots import fit_pilots
from daskmoe.rows import SampleWindow


class Searched(Protocol):
    """What became of a search for a shared start that is kept."""

    @property
    def sampled(self) -> bool:
        """Whether a sample of the rows is needed."""


class Sampled(NamedTuple):
    """Rows of the sample, and what became of the others."""

    # Complete rows of positive weight; None where no row could be read.
    rows: Observations | None
    # Rows that the sample should have,
    drawn: int
    # of these, those that could not be read,
    unread: int = 0
    # and those left out for a value that is missing, infinite or, as a weight, negative,
    incomplete: int = 0
    # by variable.
    reasons: tuple[tuple[str, int], ...] = ()
    # where the first of them are,
    places: str = ""
    # and those that are not there.
    absent: int = 0
    # Why the first of the unread rows could not be read.
    failure: str = ""


def read_sample(
    plan: TaskPlan,
    windows: Sequence[SampleWindow],
    pieces: Sequence[xr.Dataset | None],
    share: float,
    search: Searched | None = None,
) -> Sampled:
    """Read some of the pilot's sample; of each window at most a random ``share`` of its rows.

    Incomplete rows and those of a wrong weight are counted and left out; ``on_error`` decides about windows
    that cannot be read. Nothing is read where a ``search`` for a kept start says that no sample is needed.
    """
    if search is not None and not search.sampled:
        return Sampled(None, 0)
    parts = zip(windows, pieces, strict=True)
    return merge_samples([_read(plan, part, piece, share) for part, piece in parts])


def _thinned(sample: Sampled, most: int, rng: np.random.Generator) -> Sampled:
    if sample.rows is None or sample.rows.n_rows <= most:
        return sample
    kept = np.sort(rng.choice(sample.rows.n_rows, most, replace=False, shuffle=False))
    return sample._replace(rows=sample.rows.take(kept))


def _read(plan: TaskPlan, part: SampleWindow, piece: xr.Dataset | None, share: float) -> Sampled:
    positions = part.positions
    work = partial(load_rows, plan, part.window, piece, "drop", positions)
    rows = attempt(plan, part.window, work)
    if isinstance(rows, DaskMoEError):
        return Sampled(None, positions.size, unread=positions.size, failure=str(rows))
    sample = Sampled(
        observations(rows, plan.schema.columns),
        positions.size,
        incomplete=rows.dropped,
        reasons=rows.reasons,
        places=rows.places,
        absent=rows.absent,
    )
    most = math.ceil(share * positions.size)
    return _thinned(sample, most, generator(plan.options.seed, Seed.PILOT, part.window.index))


def merge_samples(samples: Sequence[Sampled]) -> Sampled:
    """Several parts of the sample as one, in their order."""
    parts = [sample.rows for sample in samples if sample.rows is not None]
    reasons: dict[str, int] = {}
    for name, count in (pair for sample in samples for pair in sample.reasons):
        reasons[name] = reasons.get(name, 0) + count
    return Sampled(
        _concatenate(parts) if parts else None,
        sum(sample.drawn for sample in samples),
        sum(sample.unread for sample in samples),
        sum(sample.incomplete for sample in samples),
        tuple(reasons.items()),
        next((sample.places for sample in samples if sample.places), ""),
        sum(sample.absent for sample in samples),
        next((sample.failure for sample in samples if sample.failure), ""),
    )


def _concatenate(parts: Sequence[Observations]) -> Observations:
    weights = [part.weight for part in parts if part.weight is not None]
    return StoppableRows(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.response for part in parts]),
        np.concatenate(weights) if weights else None,
        columns=parts[0].columns,
    )


def fit_sample(plan: TaskPlan, samples: Sequence[Sampled]) -> list[Pilot]:
    """Fit the sample: the shared starts of all partitions.

    `InvalidDataError` for too few complete rows, and for any that is not where ``on_error`` is to raise: what
    a partition would say after the fit is known before it.
    """
    rng = generator(plan.options.seed, Seed.PILOT)
    merged = merge_samples(samples)
    # Of a wrong weight its partition tells, which no option lets pass.
    missing = any(name != plan.schema.weight for name, _ in merged.reasons)
    if missing and merged.incomplete < merged.drawn and plan.options.on_error == "raise":
        raise InvalidDataError(_incomplete(merged))
    sample = _thinned(merged, plan.sample_rows, rng)
    least = max(2, plan.options.n_experts)
    if sample.rows is None or sample.rows.n_rows < least:
        raise InvalidDataError(_too_few(sample, least))
    with single_threaded_blas(), reused_memory(), stoppable(plan.job):
        return fit_pilots(without_rare_levels(sample.rows), plan.local, rng)


def _counts(sample: Sampled) -> str:
    return ", ".join(f"{name!r} {count}" for name, count in sample.reasons)


def _incomplete(sample: Sampled) -> str:
    return (
        f"Expected finite values, got NaN or infinity in {sample.incomplete} of {sample.drawn} sampled rows, "
        f"which are read first (by variable: {_counts(sample)}; "
        f"{sample.places}). on_error='skip' drops such rows and counts them."
    )


def _too_few(sample: Sampled, least: int) -> str:
    """Why there are too few rows, and what helps: another aggregation where other rows may be better."""
    counts = _counts(sample)
    if sample.incomplete == sample.drawn:
        return (
            f"Expected complete rows, got none among {sample.drawn} sampled rows: missing or infinite values "
            f"(or negative weights) by variable: {counts}. Look at these variables, or name features that "
            "have values."
        )
    found = 0 if sample.rows is None else sample.rows.n_rows
    causes = [f"got {found}"]
    if sample.incomplete:
        causes.append(f"{sample.incomplete} of them are incomplete (by variable: {counts})")
    if sample.absent:
        causes.append(
            f"{sample.absent} of them are not there (target and features are all missing) or at atoms"
        )
    if sample.unread:
        causes.append(f"{sample.unread} of them could not be read (first: {sample.failure})")
    return (
        f"Expected at least {least} complete rows of positive weight among the {sample.drawn} sampled rows "
        f"that all partitions start from, {'; '.join(causes)}. Drop such rows from the data, or use "
        "aggregation='reduction', which needs no sample."
    )
