"""Finished partitions on disk, so that a job that died goes on where it stopped.

One ``.npz`` file a partition (arrays only, never a pickle), written under a temporary name and renamed, so
that a file that is there is whole. The name carries a token of everything the result depends on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from daskmoe.engine.outcomes import Ending, Outcome
from daskmoe.engine.results import Answer, PartitionResult
from daskmoe.errors import StoreError
from daskmoe.numerics.base.extremes import Extremes
from daskmoe.numerics.base.parameters import LocalEstimate, MoEParameters, Moments, SupportSample
from daskmoe.numerics.combine.expansion import Expansion
from daskmoe.numerics.combine.first_step import AtStart

logger = logging.getLogger(__name__)

# Folders that could not be written, of which this process has told.
_told: set[str] = set()
_ESTIMATE_ARRAYS = ("start_log_likelihoods", "expert_weights")


def checkpoint_path(folder: str, token: str, index: int) -> Path:
    """Where the result of a partition is kept."""
    return Path(folder) / f"moe-local-fit-{token}-{index}.npz"


def save_result(path: Path, result: PartitionResult) -> None:
    """Write a result; an interrupted write leaves nothing under ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **_to_arrays(result))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def keep_result(path: Path, result: PartitionResult) -> PartitionResult:
    """Write a result, if that is possible: a full disk is told, and is no fault of a fit."""
    try:
        save_result(path, result)
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"
        if str(path.parent) not in _told:
            _told.add(str(path.parent))
            logger.warning("partition %s is not kept, and others may not be: %s", result.label, reason)
        return result._replace(ending=result.ending._replace(unkept=reason))
    return result


def require_folder(folder: str | os.PathLike[str] | None) -> None:
    """Make a folder of checkpoints if it is not there; `StoreError` for one that cannot be written."""
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"checkpoint: expected a folder that can be written, got {str(folder)!r}: {error}. Name another "
            "(checkpoint=...), or none."
        ) from error


def load_result(path: Path) -> PartitionResult | None:
    """The result kept at ``path``; None if there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            _check_archive(file)
            with np.load(file, allow_pickle=False) as arrays:
                return _from_arrays(dict(arrays))
    except FileNotFoundError:
        return None
    # A spoiled archive can fail in any way, and whatever it is the partition is fitted again.
    except Exception as error:
        logger.warning("checkpoint %s cannot be read and is made anew: %s", path, error)
        return None


def _check_archive(file: BinaryIO) -> None:
    """Raise `ValueError` for entries that would unpack to more than the file holds; ours are as they are."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
                shape, _, dtype = read(member)
            declared = math.prod(shape) * dtype.itemsize
            if entry.compress_type != zipfile.ZIP_STORED or declared > entry.file_size:
                raise ValueError(f"entry {entry.filename!r} declares more than it holds")
    file.seek(0)


def _to_arrays(result: PartitionResult) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    kept = ("label", "data_bytes", "absent_rows")
    scalars: dict[str, Any] = {name: getattr(result, name) for name in kept}
    scalars["answers"] = [_add_answer(arrays, f"{i}.", each) for i, each in enumerate(result.answers)]
    _add_group(arrays, "support", result.support)
    _add_group(arrays, "moments", result.moments)
    # An archive's directory has no checksum: the names say whether it lost an entry.
    arrays["scalars"] = np.array(json.dumps({**scalars, "arrays": sorted(arrays)}))
    return arrays


def _add_answer(arrays: dict[str, Any], start: str, answer: Answer) -> dict[str, Any]:
    """Add the arrays of an answer, their names beginning with ``start``; its scalars."""
    estimate, ending, expansion = answer
    arrays |= {f"{start}{name}": getattr(estimate, name) for name in _ESTIMATE_ARRAYS}
    _add_group(arrays, f"{start}parameters", estimate.parameters)
    _add_group(arrays, f"{start}expansion", expansion)
    _add_group(arrays, f"{start}start", None if expansion is None else expansion.start)
    _add_group(arrays, f"{start}extremes", estimate.extremes)
    others = ("parameters", "extremes", *_ESTIMATE_ARRAYS)
    scalars = {name: value for name, value in estimate._asdict().items() if name not in others}
    return {"estimate": scalars, "outcome": ending.outcome, "reason": ending.reason}


def _add_group(arrays: dict[str, Any], group: str, values: Any) -> None:
    """Add the fields of a NamedTuple that are there; those that are groups themselves apart."""
    if values is not None:
        for name, value in values._asdict().items():
            if value is not None and not isinstance(value, tuple):
                arrays[f"{group}.{name}"] = np.asarray(value)


def _from_arrays(arrays: dict[str, Any]) -> PartitionResult:
    scalars = json.loads(str(arrays.pop("scalars")))
    if scalars.pop("arrays") != sorted(arrays):
        raise ValueError(f"entries are missing, there are only {sorted(arrays)}")
    answers = [_answer(arrays, f"{i}.", known) for i, known in enumerate(scalars["answers"])]
    moments = _group(arrays, "moments")
    (estimate, ending, expansion), *rivals = answers
    return PartitionResult(
        scalars["label"],
        estimate,
        ending,
        SupportSample(**{"response": None, **_group(arrays, "support")}),
        Moments(float(moments["weight"]), moments["mean"], moments["scatter"]) if moments else None,
        scalars["data_bytes"],
        expansion,
        tuple(rivals),
        scalars["absent_rows"],
    )


def _answer(arrays: dict[str, Any], start: str, scalars: dict[str, Any]) -> Answer:
    parameters, expansion = _group(arrays, f"{start}parameters"), _group(arrays, f"{start}expansion")
    first = _group(arrays, f"{start}start")
    own: dict[str, Any] = {name: arrays[f"{start}{name}"] for name in _ESTIMATE_ARRAYS}
    if extremes := _group(arrays, f"{start}extremes"):
        own["extremes"] = Extremes(**extremes)
    known = MoEParameters(**parameters) if parameters else None
    return Answer(
        LocalEstimate(parameters=known, **own, **scalars["estimate"]),
        Ending(Outcome(scalars["outcome"]), scalars["reason"], kept=True),
        Expansion(**expansion, start=_at_start(first)) if expansion else None,
    )


def _at_start(found: dict[str, Any]) -> AtStart | None:
    if not found:
        return None
    numbers = {name: float(found[name]) for name in ("weight", "log_likelihood")}
    return AtStart(**(found | numbers))


def _group(arrays: dict[str, Any], name: str) -> dict[str, Any]:
    """The arrays that `_add_group` added, by field."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}
