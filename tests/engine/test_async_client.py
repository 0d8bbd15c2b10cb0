"""Under an asynchronous client what cannot wait says how it is done, and what need not wait works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import daskmoe
from daskmoe import InvalidOptionError, MixtureOfExperts


@pytest.mark.filterwarnings("ignore:The refinement ended short")
def test_what_waits_is_told_how(tmp_path: Path) -> None:
    data, _ = daskmoe.simulate(400, n_features=2, n_experts=2, chunks=100, random_state=0)
    path = str(tmp_path / "data.zarr")
    data.to_zarr(path, zarr_format=2)
    options = {"n_experts": 2, "random_state": 0}

    def in_a_thread(address: str, model: MixtureOfExperts) -> MixtureOfExperts:
        with Client(address, set_as_default=True):
            return daskmoe.refine(model, path, rounds=2)

    async def work() -> tuple[MixtureOfExperts, MixtureOfExperts]:
        async with Client(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, asynchronous=True
        ) as client:
            waiting: list[Callable[[MixtureOfExperts], object]] = [
                lambda model: daskmoe.fit(path, "y", **options),
                lambda model: daskmoe.refine(model, path, rounds=2),
                lambda model: model.score(path),
                lambda model: model.log_likelihood(path),
            ]
            model = await client.compute(daskmoe.fit(path, "y", compute=False, **options))
            for call in waiting:
                with pytest.raises(InvalidOptionError, match=r"await client\.compute.*asyncio\.to_thread"):
                    call(model)
            refined = await asyncio.wait_for(
                asyncio.to_thread(in_a_thread, client.scheduler.address, model), timeout=120
            )
            return model, refined

    model, refined = asyncio.run(asyncio.wait_for(work(), timeout=200))
    np.testing.assert_array_equal(model.params["coef"], daskmoe.fit(path, "y", **options).params["coef"])
    expected = daskmoe.refine(model, path, rounds=2)
    np.testing.assert_array_equal(refined.params["coef"], expected.params["coef"])
