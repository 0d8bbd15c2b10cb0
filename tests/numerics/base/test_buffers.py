"""Working arrays: where they start and when they are kept."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.buffers import Buffers, empty


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 1, 9)])
def test_arrays_start_on_a_cache_line(shape: tuple[int, ...], dtype: type) -> None:
    # Held at once: one address alone could be a multiple by chance.
    arrays = [empty(shape, dtype) for _ in range(8)]
    for array in arrays:
        assert array.ctypes.data % 64 == 0
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.c_contiguous
        array[...] = 1.0
    assert all((array == 1.0).all() for array in arrays)


def test_an_array_is_kept_for_as_long_as_its_shape_is() -> None:
    buffers = Buffers()
    first = buffers.get("weights", (2, 4))
    assert buffers.get("weights", (2, 4)) is first
    assert buffers.get("joint", (2, 4)) is not first
    smaller = buffers.get("weights", (2, 3))
    assert smaller.shape == (2, 3)
    assert not np.shares_memory(smaller, first)
