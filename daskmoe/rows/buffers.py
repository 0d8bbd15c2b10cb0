"""Reading a Zarr array without the copy from its only chunk.

Zarr allocates a result, decodes chunks and copies them into it. A partition is often one chunk of a variable,
and then the chunk as it was decoded is the result.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import zarr
from xarray.backends import ZarrStore
from zarr.core.buffer import BufferPrototype, cpu

# A result that is a piece of a chunk keeps the whole chunk in memory: it must be this share of it.
_LEAST_SHARE = 0.5


class AdoptingBuffer(cpu.NDBuffer):
    """An array that is not allocated until a part of it is set, and is what it is set to as a whole."""

    _order: Literal["C", "F"] | None = None

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: npt.DTypeLike, order: Literal["C", "F"] = "C") -> Self:
        """A buffer to be filled."""
        values: Any = np.broadcast_to(np.zeros((), dtype), shape)
        buffer = cls(values)
        buffer._order = order
        return buffer

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a part, or take over what is to be the whole."""
        if self._order is not None:
            given: Any = value._data if isinstance(value, cpu.NDBuffer) else None
            order, self._order = self._order, None
            if given is not None and self._is_whole(key) and _can_stand_for(given, self._data):
                self._data = given
                return
            values: Any = np.empty(self._data.shape, self._data.dtype, order)
            self._data = values
        super().__setitem__(key, value)

    def _is_whole(self, key: Any) -> bool:
        parts = key if isinstance(key, tuple) else (key,)
        sizes = zip(parts, self._data.shape, strict=False)
        return len(parts) == self._data.ndim and all(
            isinstance(part, slice) and part.indices(size) == (0, size, 1) for part, size in sizes
        )


def _can_stand_for(given: Any, expected: Any) -> bool:
    if not isinstance(given, np.ndarray) or given.shape != expected.shape or given.dtype != expected.dtype:
        return False
    whole = given
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return given.nbytes >= _LEAST_SHARE * whole.nbytes


_PROTOTYPE = BufferPrototype(cpu.Buffer, AdoptingBuffer)


class _LeanAsyncArray(zarr.AsyncArray[Any]):
    """An array for those who wait for several at once."""

    async def getitem(self, selection: Any, *, prototype: BufferPrototype | None = None) -> Any:
        """A piece, in a buffer of ours."""
        return await super().getitem(selection, prototype=prototype or _PROTOTYPE)


# Zarr's arrays are generic from 3.1.4 on.
_Array: Any = zarr.Array


class _LeanArray(_Array):  # type: ignore[misc]
    """An array whose results may be read-only."""

    def get_basic_selection(self, selection: Any = ..., **options: Any) -> Any:
        """A piece, in a buffer of ours."""
        options["prototype"] = options.get("prototype") or _PROTOTYPE
        return super().get_basic_selection(selection, **options)

    def get_orthogonal_selection(self, selection: Any, **options: Any) -> Any:
        """The same for what Zarr takes for orthogonal, slices of every dimension among it."""
        options["prototype"] = options.get("prototype") or _PROTOTYPE
        return super().get_orthogonal_selection(selection, **options)


class LeanStore(ZarrStore):
    """xarray's store with arrays that are read without that copy."""

    # What `members` was made of, and what it was.
    _lean_members: tuple[dict[str, Any], dict[str, Any]] | None = None

    @property
    def members(self) -> dict[str, Any]:
        """The arrays and groups by name."""
        found = super().members
        # xarray asks for them several times a variable.
        if self._lean_members is None or self._lean_members[0] is not found:
            self._lean_members = found, {name: _lean(each) for name, each in found.items()}
        return self._lean_members[1]


def _lean(member: Any) -> Any:
    known = getattr(member, "async_array", None)
    # Before Zarr 3.1.4 there is no way to an array's parts, and inside shards Zarr wants its own buffers: the
    # copy is a cost in memory only.
    if known is None or not isinstance(member, zarr.Array) or member.shards is not None:
        return member
    return _LeanArray(_LeanAsyncArray(known.metadata, known.store_path, known.config))
