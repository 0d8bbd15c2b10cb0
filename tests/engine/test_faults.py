"""Faults of stores, disks and the program: retried, left out or told, and never one for the other."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import InvalidOptionError, PartitionError, StoreError
from daskmoe.cli.commands import run
from daskmoe.cli.exit_codes import BAD_INPUT
from daskmoe.engine import tasks
from daskmoe.rows import retrying
from daskmoe.rows.retrying import is_transient

OPTIONS: dict[str, Any] = {"n_experts": 2, "n_init": 2, "random_state": 0, "aggregation": "reduction"}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retrying.time, "sleep", lambda seconds: None)
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return daskmoe.simulate(400, n_features=2, n_experts=2, random_state=0)[0].compute()


class Busy(Exception):
    """As a client of a server raises."""

    status = 503


class Absent(Exception):
    """The same, for what is not there."""

    status = 404


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EIO, "input or output"), True),
        (Busy(), True),
        (Absent(), False),
        (FileNotFoundError(), False),
        (OSError(errno.ENOSPC, "full"), False),
        (StoreError("told without a cause"), False),
        (ValueError(), False),
        (MemoryError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_may_be_gone_the_next_time(error: Exception, transient: bool) -> None:
    assert is_transient(error) == transient
    told = StoreError("cannot be opened")
    told.__cause__ = error
    assert is_transient(told) == transient


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int, partition: str = "1") -> list[str]:
    """Have reads of a partition fail so often; the list has every partition that is read."""
    read, original = [], tasks.extract_rows

    def extract(box: Any, schema: Any, part: Any, **options: Any) -> Any:
        read.append(part.label)
        if part.label == partition and read.count(partition) <= times:
            raise error
        return original(box, schema, part, **options)

    monkeypatch.setattr(tasks, "extract_rows", extract)
    return read


def test_a_read_that_fails_for_a_moment_is_tried_again(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = daskmoe.fit(data, "y", partitions=4, **OPTIONS)
    read = failing(monkeypatch, Busy("503"), times=2)
    found = daskmoe.fit(data, "y", partitions=4, **OPTIONS)
    assert read.count("1") == 3
    xr.testing.assert_identical(found.params, expected.params)


def test_a_store_that_stays_away_is_left_out_or_told_with_what_helps(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = failing(monkeypatch, Busy("503"), times=100)
    with pytest.raises(PartitionError, match=r"The store did not answer 4 times: .* fit again"):
        daskmoe.fit(data, "y", partitions=4, **OPTIONS)
    assert read.count("1") == 4
    model = daskmoe.fit(data, "y", partitions=4, on_error="skip", **OPTIONS)
    assert model.diagnostics is not None
    assert model.diagnostics["outcome"].values.tolist().count("left out") == 1


@pytest.mark.parametrize("error", [MemoryError("no room"), TypeError("wrong"), AttributeError("none")])
def test_memory_and_faults_of_the_program_are_never_left_out(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error, times=100)
    advice = "smaller partitions" if isinstance(error, MemoryError) else "please report it"
    with pytest.raises(PartitionError, match=advice):
        daskmoe.fit(data, "y", partitions=4, on_error="skip", **OPTIONS)


@pytest.mark.parametrize(("least", "passes"), [(1, True), (3, True), (0.75, True), (4, False), (0.8, False)])
def test_as_many_partitions_as_are_asked_for_must_be_fitted(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch, least: float, passes: bool
) -> None:
    failing(monkeypatch, ValueError("damaged"), times=100)
    options = OPTIONS | {"partitions": 4, "on_error": "skip", "min_success": least}
    if passes:
        assert daskmoe.fit(data, "y", **options).options["min_success"] == least
    else:
        with pytest.raises(
            PartitionError, match=r"at least 4 of 4 partitions .* got 3: 1 \(left out: .*damaged"
        ):
            daskmoe.fit(data, "y", **options)


@pytest.mark.parametrize("wrong", [0, 1.5, -0.5, True, "most", 5])
def test_what_is_no_number_or_share_of_partitions_is_refused(data: xr.Dataset, wrong: Any) -> None:
    with pytest.raises(InvalidOptionError, match="min_success"):
        daskmoe.fit(data, "y", partitions=4, min_success=wrong, **OPTIONS)


def test_a_disk_that_is_full_is_told_once_and_the_fit_goes_on(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = daskmoe.fit(data, "y", partitions=4, **OPTIONS)
    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level(logging.WARNING, logger="daskmoe"):
        found = daskmoe.fit(data, "y", partitions=4, checkpoint=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(found.params["coef"], expected.params["coef"])
    told = [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    assert len(told) == 2
    assert "is not kept, and others may not be" in told[0]
    assert told[1].startswith("4 of 4 partitions could not be kept in the checkpoint")
    assert not [*tmp_path.iterdir()]


def test_folders_that_cannot_be_written_are_found_before_any_work(
    data: xr.Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, raise_if_dask_computes: Any
) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "kept"
    with (
        raise_if_dask_computes(),
        pytest.raises(StoreError, match="checkpoint: expected a folder that can be"),
    ):
        daskmoe.fit(data, "y", checkpoint=below, **OPTIONS)
    store = tmp_path / "rows.zarr"
    data.drop_vars("feature", errors="ignore").to_zarr(store, zarr_format=2)
    fit = ["fit", str(store), "--target", "y", "--n-experts", "2", "--workers", "1"]
    for extra in (
        ["--output", str(below)],
        ["--output", str(tmp_path / "m.zarr"), "--checkpoint", str(below)],
    ):
        assert run([*fit, *extra]) == BAD_INPUT
        assert "can be written" in caplog.text
