"""What a checkpoint saves where a store grows: a rerun after one of 50 chunks more, over a fit to all.

Beside it a rerun of the same rows, what keeping costs a first fit, and an update of the model with the new
rows alone. One process, no cluster; every figure is of one run, in seconds of its processor.

    python -m tests.benchmarks.growth
    python -m tests.benchmarks.growth --aggregations auto --rows 50000 --features 40
    python -m tests.benchmarks.growth --tiny
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask

import daskmoe
from daskmoe import MixtureOfExperts


class Seconds(NamedTuple):
    """Of fits."""

    # Without a checkpoint, to all chunks.
    full: float
    # To all but one, all of which is kept,
    first: float
    # again,
    again: float
    # and to all, of which one is new.
    grown: float
    # Of the first model, with the new chunk alone; nothing of one that keeps no information.
    updated: float


def measure(folder: Path, chunks: int, rows: int, features: int, **options: Any) -> Seconds:
    """Write all chunks but one, fit, append the last, fit."""
    store, kept = folder / "rows.zarr", folder / f"kept-{options['aggregation']}"
    total = chunks * rows
    data, _ = daskmoe.simulate(total, n_features=features, n_experts=3, design="overlap", random_state=0)
    data = data.drop_vars([name for name in data.coords if "row" in data[name].dims])
    layout = {"X": {"chunks": (rows, features)}, "y": {"chunks": (rows,)}}

    def timed(
        verb: Callable[..., MixtureOfExperts], *given: Any, **more: Any
    ) -> tuple[float, MixtureOfExperts]:
        begun = time.process_time()
        model = verb(*given, progress=False, **more)
        return time.process_time() - begun, model

    def fit(**more: Any) -> tuple[float, MixtureOfExperts]:
        return timed(daskmoe.fit, store, "y", n_experts=3, random_state=0, **options, **more)

    most = data.isel(row=slice(total - rows)).chunk(row=rows)
    most.to_zarr(store, mode="w", zarr_format=2, encoding=layout)
    fit()
    (first, model), (again, _) = fit(checkpoint=kept), fit(checkpoint=kept)
    new = data.isel(row=slice(total - rows, None)).chunk(row=rows)
    new.to_zarr(store, append_dim="row", zarr_format=2)
    updated = timed(daskmoe.update, model, new)[0] if options["aggregation"] == "auto" else math.nan
    return Seconds(fit()[0], first, again, fit(checkpoint=kept)[0], updated)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line an aggregation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aggregations", nargs="+", default=["reduction", "auto"])
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--tiny", action="store_true")
    known = parser.parse_args(arguments)
    chunks, rows, features = (4, 200, 2) if known.tiny else (known.chunks, known.rows, known.features)
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        for aggregation in known.aggregations:
            found = measure(Path(folder), chunks, rows, features, aggregation=aggregation)
            print(  # noqa: T201
                f"{aggregation:>10}  full {found.full:7.2f} s  grown {found.grown / found.full:.3f}  "
                f"updated {found.updated / found.full:.3f}  same rows {found.again / found.full:.3f}  "
                f"keeping {found.first / found.full:.3f}"
            )


if __name__ == "__main__":
    main()
