"""Functions of blocks applied to labelled arrays: lazy ones stay lazy, chunk for chunk."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from daskmoe.errors import InvalidOptionError


def apply_in_blocks(
    function: Callable[..., NDArray[Any]],
    *arguments: Any,
    dtype: DTypeLike,
    core_dims: Sequence[Sequence[Hashable]] | None = None,
    leading: tuple[str, int] | None = None,
    keep_attrs: bool = False,
    **options: Any,
) -> Any:
    """What ``function`` makes of variables or data arrays, of lazy ones when it is asked for.

    So does `xarray.apply_ufunc` with ``dask="parallelized"``, but of arrays that Dask plans as expressions
    (``array.query-planning``) it makes arrays of the other kind, which cannot be computed.

    Parameters
    ----------
    function : callable
        Of arrays whose dimensions are aligned from the right, before the core ones.
    *arguments : xr.Variable or xr.DataArray
    dtype : dtype
        Of the result.
    core_dims : sequence of sequences of str, optional
        For each argument the dimensions that the function sees whole, which its arrays have last.
    leading : (str, int), optional
        Name and length of a dimension that the result has last.
    keep_attrs : bool
        Whether the result has the attributes of the first argument.
    **options
        Passed to the function.

    Returns
    -------
    xr.Variable or xr.DataArray
        As the arguments are.
    """
    core = [tuple(dims) for dims in core_dims or [()] * len(arguments)]
    work = partial(_on_arrays, partial(function, **options), core, leading, np.dtype(dtype))
    return xr.apply_ufunc(
        work,
        *arguments,
        input_core_dims=core,
        output_core_dims=[() if leading is None else leading[:1]],
        dask="allowed",
        keep_attrs=keep_attrs,
    )


def _on_arrays(
    function: Callable[..., NDArray[Any]],
    core: Sequence[tuple[Hashable, ...]],
    leading: tuple[str, int] | None,
    dtype: np.dtype[Any],
    *arrays: Any,
) -> Any:
    if not any(hasattr(array, "__dask_graph__") for array in arrays):
        return function(*arrays)
    import dask.array as da

    # A signature has names of its own, as those of dimensions may be anything.
    names: dict[Hashable, str] = {}
    for dim in (*(dim for dims in core for dim in dims), *(leading or ())[:1]):
        names.setdefault(dim, f"dim{len(names)}")
    inner = ",".join(f"({','.join(names[dim] for dim in dims)})" for dims in core)
    outer, sizes = "", {}
    if leading is not None:
        outer, sizes = names[leading[0]], {names[leading[0]]: leading[1]}
    return da.apply_gufunc(
        function, f"{inner}->({outer})", *arrays, output_dtypes=dtype, output_sizes=sizes, vectorize=False
    )


@contextmanager
def explained_sums() -> Iterator[None]:
    """Around sums of labelled arrays: xarray has none of arrays that Dask plans as expressions.

    Raises
    ------
    InvalidOptionError
        For such arrays, with what to do.
    """
    try:
        yield
    except NotImplementedError as error:
        import dask

        if not dask.config.get("array.query-planning", False):
            raise
        raise InvalidOptionError(
            "Expected arrays that xarray can sum, got lazy ones that Dask plans as expressions "
            "(array.query-planning is on). Start without it: unset DASK_ARRAY__QUERY_PLANNING; or pass "
            "data in memory: data.load()."
        ) from error
