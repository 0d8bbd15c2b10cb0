"""Results as bytes: an ``.npz`` archive of all numbers in one array, and a text that says what they are.

Nothing is pickled. What is read are the named tuples of `_KINDS`, of arrays, numbers and text: a file from
elsewhere can be refused or be wrong, and cannot do anything else.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.engine.outcomes import Ending, Outcome
from daskmoe.engine.results import Answer, Counted, PartitionResult
from daskmoe.numerics.base.coordinates import Coordinates, Directions, Scaling
from daskmoe.numerics.base.extremes import Extremes
from daskmoe.numerics.base.parameters import Columns, LocalEstimate, MoEParameters, Moments, SupportSample
from daskmoe.numerics.combine.candidates import Tally
from daskmoe.numerics.combine.expansion import Expansion, Pilot
from daskmoe.numerics.combine.first_step import AtStart
from daskmoe.numerics.combine.round_sums import PackedStatistics, ScoreProducts, ScoreSums
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.scores import ClusterScores

# Bytes that arrays begin at multiples of.
_ALIGNED = 16
# A value that is no number or text is a list: what it is, and its parts.
_ARRAY, _SCALAR, _TUPLE, _LIST, _PAIRS, _OUTCOME = "array", "scalar", "tuple", "list", "pairs", "outcome"
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Answer, AtStart, ClusterScores, Columns, Coordinates, Counted, Directions, Ending, Expansion,
        Extremes, LocalEstimate, MoEParameters, Moments, PackedStatistics, PartitionResult, Pilot, Prior,
        Scaling, ScoreProducts, ScoreSums, SupportSample, Tally,
    )
}  # fmt: skip


def register(kind: type[Any]) -> type[Any]:
    """A named tuple that archives may hold too; a decorator."""
    _KINDS[kind.__name__] = kind
    return kind


class _Content(NamedTuple):
    """What an archive's text says."""

    # The entry that it is: a file under another entry's name is not that entry.
    name: str
    value: Any
    # Of every array its data type, its shape, and the order of its elements, "C" or "F".
    arrays: list[tuple[str, list[int], str]]


def to_bytes(value: Any, name: str) -> bytes:
    """The archive of a value that is kept under a name; `TypeError` for a kind that archives do not hold."""
    arrays: list[NDArray[Any]] = []
    structure = _taken_apart(value, arrays)
    # The order matters to the last bit of what is summed later.
    orders = ["F" if each.flags.fnc else "C" for each in arrays]
    known = [(a.dtype.str, list(a.shape), order) for a, order in zip(arrays, orders, strict=True)]
    parts = [each.tobytes("A") for each in arrays]
    numbers = b"".join(part + bytes(-len(part) % _ALIGNED) for part in parts)
    text = json.dumps(_Content(name, structure, known)).encode()
    file = io.BytesIO()
    np.savez(file, structure=np.frombuffer(text, np.uint8), numbers=np.frombuffer(numbers, np.uint8))
    return file.getvalue()


def from_bytes(data: bytes, name: str) -> Any:
    """The value that was kept under a name; an exception of some kind if it is not that, whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        text, numbers = _bytes_in(archive, "structure"), _bytes_in(archive, "numbers")
    content = _Content(*json.loads(text.tobytes()))
    if content.name != name:
        raise ValueError(f"it is the entry {content.name!r}")
    arrays, start = [], 0
    for code, shape, order in content.arrays:
        dtype = np.dtype(code)
        stop = start + math.prod(shape) * dtype.itemsize
        arrays.append(numbers[start:stop].view(dtype).reshape(shape, order="F" if order == "F" else "C"))
        start = stop + -stop % _ALIGNED
    if start != numbers.size:
        raise ValueError(f"it holds {numbers.size} bytes of numbers, and says that they are {start}")
    return _put_together(content.value, arrays)


def _bytes_in(archive: zipfile.ZipFile, part: str) -> NDArray[np.uint8]:
    """An array of bytes; `ValueError` for one that would unpack to more than the file holds."""
    entry = archive.getinfo(f"{part}.npy")
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        shape, _, dtype = read(member)
        declared = math.prod(shape) * dtype.itemsize
        if entry.compress_type != zipfile.ZIP_STORED or declared > entry.file_size:
            raise ValueError(f"entry {entry.filename!r} declares more than it holds")
        found = np.frombuffer(member.read(), np.uint8)
    if len(found) != declared:
        raise ValueError(f"entry {entry.filename!r} declares {declared} bytes, and holds {len(found)}")
    # Others may write to it, and arrays inside are to be aligned.
    return found.copy()


def _taken_apart(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """What JSON can hold of a value, whose arrays are added to ``arrays``."""
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value))
        return [_ARRAY if isinstance(value, np.ndarray) else _SCALAR, len(arrays) - 1]
    if isinstance(value, Outcome):
        return [_OUTCOME, value.value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        kind = type(value).__name__
        if _KINDS.get(kind) is not type(value):
            raise TypeError(f"expected a kind that archives hold, got {type(value)!r}")
        return [kind, [_taken_apart(each, arrays) for each in value]]
    if isinstance(value, tuple | list):
        kind = _TUPLE if isinstance(value, tuple) else _LIST
        return [kind, [_taken_apart(each, arrays) for each in value]]
    if isinstance(value, Mapping):
        return [_PAIRS, [[_taken_apart(each, arrays) for each in pair] for pair in value.items()]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"expected a kind that archives hold, got {type(value)!r}")


def _put_together(structure: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    """The value that was taken apart."""
    if not isinstance(structure, list):
        return structure
    kind, inside = structure
    if kind == _ARRAY:
        return arrays[inside]
    if kind == _SCALAR:
        return arrays[inside][()]
    if kind == _OUTCOME:
        return Outcome(inside)
    if kind == _PAIRS:
        return {_put_together(key, arrays): _put_together(value, arrays) for key, value in inside}
    parts = [_put_together(each, arrays) for each in inside]
    if kind == _LIST:
        return parts
    return tuple(parts) if kind == _TUPLE else _KINDS[kind](*parts)
