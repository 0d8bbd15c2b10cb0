"""Finished partitions on disk, so that a job that died goes on where it stopped.

One ``.npz`` file a partition (arrays only, never a pickle), written under a temporary name and renamed, so
that a file that is there is whole. The name carries a token of everything the result depends on.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from daskmoe.engine.outcomes import Ending, Outcome
from daskmoe.engine.results import PartitionResult
from daskmoe.numerics.base.parameters import LocalEstimate, MoEParameters, Moments, SupportSample
from daskmoe.numerics.combine.expansion import Expansion

logger = logging.getLogger(__name__)

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


def load_result(path: Path) -> PartitionResult | None:
    """The result kept at ``path``; None if there is none or it cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _from_arrays(dict(arrays))
    except FileNotFoundError:
        return None
    # A spoiled archive can fail in any way, and whatever it is the partition is fitted again.
    except Exception as error:
        logger.warning("checkpoint %s cannot be read and is made anew: %s", path, error)
        return None


def _to_arrays(result: PartitionResult) -> dict[str, Any]:
    estimate = result.estimate
    others = ("parameters", *_ESTIMATE_ARRAYS)
    scalars = {name: value for name, value in estimate._asdict().items() if name not in others}
    scalars |= {"label": result.label, "data_bytes": result.data_bytes}
    scalars |= {"outcome": result.ending.outcome, "reason": result.ending.reason}
    arrays: dict[str, Any] = {name: getattr(estimate, name) for name in _ESTIMATE_ARRAYS}
    groups = {
        "parameters": estimate.parameters,
        "support": result.support,
        "moments": result.moments,
        "expansion": result.expansion,
    }
    for group, values in groups.items():
        if values is not None:
            fields = values._asdict().items()
            arrays |= {f"{group}.{name}": np.asarray(value) for name, value in fields if value is not None}
    # An archive's directory has no checksum: the names say whether it lost an entry.
    arrays["scalars"] = np.array(json.dumps({**scalars, "arrays": sorted(arrays)}))
    return arrays


def _from_arrays(arrays: dict[str, Any]) -> PartitionResult:
    def group(name: str) -> dict[str, Any]:
        start = f"{name}."
        return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}

    scalars = json.loads(str(arrays.pop("scalars")))
    if scalars.pop("arrays") != sorted(arrays):
        raise ValueError(f"entries are missing, there are only {sorted(arrays)}")
    label, data_bytes = scalars.pop("label"), scalars.pop("data_bytes")
    ending = Ending(Outcome(scalars.pop("outcome")), scalars.pop("reason"), kept=True)
    parameters = MoEParameters(**group("parameters")) if group("parameters") else None
    moments = group("moments")
    own = {name: arrays[name] for name in _ESTIMATE_ARRAYS}
    estimate = LocalEstimate(parameters=parameters, **own, **scalars)
    return PartitionResult(
        label,
        estimate,
        ending,
        SupportSample(**{"response": None, **group("support")}),
        Moments(float(moments["weight"]), moments["mean"], moments["scatter"]) if moments else None,
        data_bytes,
        Expansion(**group("expansion")) if group("expansion") else None,
    )
