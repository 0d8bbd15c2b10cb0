"""Rows of the caller's own at which expectations over x are taken: a sample of them, planned and read."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr
from dask.base import compute

from daskmoe.engine.seeds import Seed, generator
from daskmoe.errors import InvalidDataError
from daskmoe.numerics.base.parameters import FloatArray, SupportSample
from daskmoe.rows import RowSchema, SampleWindow, extract_rows, open_store, plan_sample, read_box

logger = logging.getLogger(__name__)

_MOST_ROWS = 10_000
# More than are used: some may be incomplete.
_DRAWN_ROWS = 40_000


def plan_support(data: str | xr.Dataset, schema: RowSchema, seed: int) -> tuple[SampleWindow, ...]:
    """The rows to read of data that ``schema`` is matched to, spread over them; nothing is read."""
    ds = data if isinstance(data, xr.Dataset) else open_store(data)
    if not schema.sample_dims:
        raise InvalidDataError("support: expected a sample dimension of the fit, got none of them.")
    if not math.prod(ds.sizes[dim] for dim in schema.sample_dims):
        raise InvalidDataError("support: expected at least one row, got no rows.")
    rng = generator(seed, Seed.GIVEN_SUPPORT)
    # Pieces of a dataset are all in memory at once, and must hold no more than the sample.
    return plan_sample(ds, schema, _DRAWN_ROWS, rng, apart=isinstance(data, xr.Dataset))


def support_pieces(
    data: str | xr.Dataset, schema: RowSchema, windows: Sequence[SampleWindow]
) -> list[xr.Dataset] | None:
    """What a dataset has of each window, lazy if it is; None where a store is opened."""
    if isinstance(data, str):
        return None
    return [read_box(data, schema, part.window, need_target=False) for part in windows]


def read_support(
    path: str | None,
    schema: RowSchema,
    seed: int,
    windows: Sequence[SampleWindow],
    pieces: Sequence[xr.Dataset] | None,
) -> SupportSample:
    """Complete rows of features, from the store at ``path`` or from pieces; of many, a random sample.

    Windows are those of `plan_support`, pieces those of `support_pieces`; `InvalidDataError` if no row is
    complete.
    """
    parts, dropped, reasons = [], 0, Counter[str]()
    for index, part in enumerate(windows):
        if pieces is not None:
            box = pieces[index]
        else:
            assert path is not None
            box = read_box(path, schema, part.window, need_target=False)
        at = part.positions
        rows = extract_rows(box, schema, part.window, on_error="skip", need_target=False, positions=at)
        parts.append(rows.features.astype(np.float64))
        dropped += rows.dropped
        reasons.update(dict(rows.reasons))
    features: FloatArray = np.concatenate(parts)
    if not len(features):
        drawn = sum(part.positions.size for part in windows)
        raise InvalidDataError(
            f"support: expected at least one row without missing features, got none among {drawn} sampled "
            "rows. Drop incomplete rows from it."
        )
    if dropped:
        by_variable = ", ".join(f"{name!r} {count}" for name, count in reasons.items())
        logger.warning(
            "support: %d of %d sampled rows are left out for values that are missing or levels that the fit "
            "does not know (by variable: %s)",
            dropped,
            dropped + len(features),
            by_variable,
        )
    if len(features) > _MOST_ROWS:
        rng = generator(seed, Seed.GIVEN_ROWS)
        features = features[np.sort(rng.choice(len(features), _MOST_ROWS, replace=False))]
    return SupportSample(features, None, np.full(len(features), 1.0 / len(features)), schema.columns)


def load_support(data: str | xr.Dataset, schema: RowSchema, seed: int) -> SupportSample:
    """The sample at once, without a graph of the caller's."""
    windows = plan_support(data, schema, seed)
    pieces = support_pieces(data, schema, windows)
    if pieces is not None:
        # In one go: windows share chunks.
        pieces = list(compute(*pieces))
    return read_support(data if isinstance(data, str) else None, schema, seed, windows, pieces)
