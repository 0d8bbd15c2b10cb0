"""The pilot's sample: the same rows whatever the chunks, read a chunk at a time."""

from __future__ import annotations

from typing import Any

import dask
import dask.array
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from hypothesis import given

from daskmoe.rows import describe_rows, extract_rows, plan_sample, read_box
from daskmoe.rows.partitions import plan_partitions
from daskmoe.rows.sampling import SampleWindow, without_partitions


def cube(shape: tuple[int, ...]) -> xr.Dataset:
    """A target that numbers the rows in C order."""
    dims = ("time", "lat", "lon")[: len(shape)]
    numbers = np.arange(float(np.prod(shape))).reshape(shape)
    return xr.Dataset({"y": (dims, numbers), "x": (dims, -numbers)})


def plan(ds: xr.Dataset, n_rows: int, seed: int = 0) -> tuple[SampleWindow, ...]:
    return plan_sample(ds, describe_rows(ds, "y"), n_rows, np.random.default_rng(seed))


def drawn(ds: xr.Dataset, n_rows: int, seed: int = 0) -> np.ndarray:
    schema = describe_rows(ds, "y")
    parts = [
        extract_rows(read_box(ds, schema, w.window), schema, w.window, positions=w.positions)
        for w in plan(ds, n_rows, seed)
    ]
    for part in parts:
        assert part.response is not None
        np.testing.assert_array_equal(part.features[:, 0], -part.response)
    return np.concatenate([part.response for part in parts if part.response is not None])


@given(st.data())
def test_rows_do_not_depend_on_chunks(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    ds = cube(shape)
    n_rows = data.draw(st.integers(1, 1_000))
    expected = drawn(ds, n_rows)
    assert expected.size == (n_rows if n_rows + 512 < ds["y"].size else ds["y"].size)
    assert (np.diff(expected) > 0).all()
    chunks = {str(dim): data.draw(st.integers(1, size)) for dim, size in ds.sizes.items()}
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(drawn(ds.chunk(chunks), n_rows), expected)


@pytest.mark.parametrize("total", [513, 600, 1_030, 1_500, 10_001, 10_233, 10_512, 10_513, 11_000])
@pytest.mark.parametrize("n_rows", [512, 600, 1_000, 10_000])
def test_totals_just_above_the_sample(total: int, n_rows: int) -> None:
    for seed in range(4):
        rows = drawn(cube((total,)), n_rows, seed)
        assert rows.size == (n_rows if n_rows + 512 < total else total)


def test_every_stratum_has_its_share() -> None:
    rows = drawn(cube((1_000_000,)), 20_000)
    assert rows.size == 20_000
    counts = np.histogram(rows, bins=100, range=(0, 1_000_000))[0]
    assert counts.min() > 150
    assert counts.max() < 250
    # Runs of every sixteenth row, each at a random place.
    starts = rows[np.append(True, np.diff(rows) != 16)]
    assert 500 <= starts.size <= 512
    assert np.std(np.diff(starts)) > 200


@pytest.mark.parametrize(
    ("shape", "chunks", "most"),
    [
        ((100_000,), (10_000,), 10),
        ((12, 10_000), (1, 10_000), 12),
        ((100, 30, 40), (25, 30, 40), 4),
        # No range of rows in C order is a chunk: every run is read on its own.
        ((100, 30, 40), (100, 10, 10), 512),
    ],
)
def test_runs_in_a_chunk_are_read_at_once(shape: tuple[int, ...], chunks: tuple[int, ...], most: int) -> None:
    ds = cube(shape)
    lazy = ds.chunk(dict(zip(ds.dims, chunks, strict=True)))
    windows = plan(lazy, 5_000)
    assert len(windows) == most
    assert 512 <= sum(len(window.runs) for window in windows) <= 512 + 12
    # The box that is read holds little more than a chunk.
    assert max(volume(window) for window in windows) <= np.prod(chunks) + 2 * np.prod(shape[1:])


@pytest.mark.parametrize(
    ("shape", "chunks", "starts"),
    [
        ((400,), (100,), [0, 100, 200, 300]),
        ((450,), (100,), [0, 100, 200, 300, 400]),
        ((3, 40), (1, 25), [0, 25, 40, 65, 80, 105]),
        ((1_600,), (10,), list(range(0, 1_600, 100))),
        ((20, 4, 4), (20, 2, 2), list(range(0, 320, 20))),
    ],
)
def test_all_rows_are_read_in_a_few_windows(
    shape: tuple[int, ...], chunks: tuple[int, ...], starts: list[int]
) -> None:
    """One that cannot be read is no reason to do without the others."""
    ds = cube(shape)
    lazy = ds.chunk(dict(zip(ds.dims, chunks, strict=True)))
    schema = describe_rows(ds, "y")
    found = [
        extract_rows(read_box(ds, schema, w.window), schema, w.window, positions=w.positions).response
        for w in plan(lazy, 2_000)
    ]
    assert [int(part[0]) for part in found if part is not None] == starts
    assert len(plan(ds, 2_000)) == 1


def test_windows_end_where_chunks_do() -> None:
    lazy = cube((20_000,)).chunk(time=5_000)
    windows = [window.window.box[0] for window in plan(lazy, 10_000)]
    assert len(windows) == 4
    for index, (_, start, stop) in enumerate(windows):
        assert 5_000 * index <= start < stop <= 5_000 * (index + 1)


def volume(window: SampleWindow) -> int:
    return int(np.prod([stop - start for _, start, stop in window.window.box]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((3, 100_050), (1, 1_000)), ((12, 35_064), (1, 5_000)), ((4, 3, 9_999), (1, 1, 100))],
)
def test_no_window_holds_two_sites(shape: tuple[int, ...], chunks: tuple[int, ...], seed: int) -> None:
    ds = cube(shape).chunk(dict(zip(("time", "lat", "lon"), chunks, strict=False)))
    # A run of every sixteenth row spans no more than 305 of them.
    assert max(volume(window) for window in plan(ds, 10_000, seed)) <= max(2 * np.prod(chunks), 320)


def test_a_window_is_no_larger_than_a_partition_may_be() -> None:
    lazy = cube((3_000_000,)).chunk(time=-1)
    windows = plan(lazy, 30_000)
    assert max(volume(window) for window in windows) <= 250_000
    assert len(windows) < 20


def test_planning_reads_nothing() -> None:
    lazy = xr.Dataset(
        {
            name: ("row", dask.array.from_delayed(dask.delayed(pytest.fail)("read"), (5_000,), float))
            for name in ("x", "y")
        }
    )
    assert len(plan(lazy, 100)) == 1


def test_incomplete_rows_of_a_sample_are_left_out() -> None:
    ds = cube((400,))
    ds["x"][::3] = np.nan
    schema = describe_rows(ds, "y")
    (window,) = plan(ds, 400)
    box = read_box(ds, schema, window.window)
    part = extract_rows(box, schema, window.window, on_error="skip", positions=window.positions[10:20])
    assert part.response is not None
    assert part.response.tolist() == [10, 11, 13, 14, 16, 17, 19]
    assert part.dropped == 3


@given(st.data())
def test_a_sample_without_some_partitions_is_what_it_was_elsewhere(draw: st.DataObject) -> None:
    ds = cube((draw.draw(st.integers(40, 3_000)),))
    ds = draw.draw(st.sampled_from([ds, ds.chunk(time=100)]))
    partitions = plan_partitions(ds, describe_rows(ds, "y"), 10)
    held = [part for part in partitions if part.index in draw.draw(st.sets(st.integers(0, 9), max_size=9))]
    windows = plan(ds, draw.draw(st.integers(1, 200)))
    left = without_partitions(windows, held)

    def rows_of(sample: Any) -> set[int]:
        return {int(i) + each.window.box[0][1] for each in sample for i in each.positions}

    out = {row for part in held for row in range(part.box[0][1], part.box[0][2])}
    assert not rows_of(left) & out
    # Cut within a run, every so-manieth row counts from where it goes on.
    if all(each.step == 1 for each in windows):
        assert rows_of(left) == rows_of(windows) - out
    assert [each.window.index for each in left] == list(range(len(left)))
