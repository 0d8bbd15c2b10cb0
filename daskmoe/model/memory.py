"""What a model remembers of its rows, as a dataset that is saved with it, and as people see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from daskmoe.model.labels import expert_names
from daskmoe.model.moments import moments_from
from daskmoe.model.store import ModelParts
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import MEMORY
from daskmoe.numerics.combine.memory import Memory
from daskmoe.numerics.likelihood.inference import Curvature
from daskmoe.rows import RowSchema
from daskmoe.rows.names import EXPERT, FEATURE, OTHER_PARAMETER, PARAMETER

_TEXTS = {
    "information": "minus the second derivatives of the log-likelihood of the rows",
    "gradient": "derivatives of the log-likelihood of the rows",
    "estimate": "parameters in whitened coordinates; of nuisances the logarithms",
    "order": "number of the expert in the order of the parameters",
    "center": "origin of the whitened coordinates",
    "transform": "whitened directions of the experts' features from deviations from the center",
    "inverse": "deviations from the center from whitened directions",
    "gate_transform": "the same for the gates' features",
    "gate_inverse": "the same for the gates' features",
    "response": "location and scale of the response in whitened coordinates",
    "nuisance_scale": "what nuisances are multiplied with on the way to the data's units",
}


def label_memory(known: Curvature | None, rows: RowSchema) -> xr.Dataset | None:
    """What a model keeps of the information on its parameters; None where there is none, or it is large.

    The upper triangle of the information, row by row, and the coordinates in which it is.
    """
    if known is None or len(known.gradient) > MEMORY.most_parameters:
        return None
    layout = Layout.of(known.parameters)
    coordinates, upper = known.coordinates, layout.upper()
    location, scale, nuisance = coordinates.response
    variables: dict[str, tuple[Any, FloatArray | Any]] = {
        "information": ("entry", (known.information - known.prior)[upper]),
        "gradient": (PARAMETER, known.gradient),
        "estimate": (PARAMETER, layout.pack(known.parameters)),
        "order": (EXPERT, np.asarray(known.order, dtype=np.int64)),
        "center": (FEATURE, coordinates.center),
        "transform": (("direction", FEATURE), coordinates.transform),
        "inverse": ((FEATURE, "direction"), coordinates.inverse),
        # Of several outputs theirs.
        "response": (("moment", "nuisance")[: 1 + np.ndim(location)], np.array([location, scale])),
        "nuisance_scale": ("nuisance", nuisance),
    }
    if coordinates.gating is not None:
        gates = coordinates.gating
        variables["gate_transform"] = (("gate_direction", FEATURE), gates.transform)
        variables["gate_inverse"] = ((FEATURE, "gate_direction"), gates.inverse)
    # Files need not hold what has no entries, as the directions of constant gates.
    kept = {name: (*found, {"long_name": _TEXTS[name]}) for name, found in variables.items() if found[1].size}
    labels = {FEATURE: np.array(rows.feature_labels, dtype=np.str_)} if len(coordinates.center) else {}
    return xr.Dataset(kept, labels)


def memory_from(parts: ModelParts) -> Memory | None:
    """What a model remembers, its experts in the order of its parameters; None where it keeps nothing."""
    found = parts.information
    known = moments_from(parts.diagnostics, parts.rows.columns)
    if found is None or known is None:
        return None
    family, coordinates = parts.densities, _coordinates(found, parts.rows)
    layout = Layout(
        found.sizes[EXPERT],
        coordinates.gates.size,
        coordinates.size,
        family.n_predictors,
        family.n_nuisances,
    )
    memory = Memory(
        layout.unpack(found["estimate"].values),
        coordinates,
        unpack(found["information"].values.astype(np.float64)).astype(np.float64),
        found["gradient"].values,
        known,
    )
    return memory.take(found["order"].values.astype(np.intp))


def _coordinates(found: xr.Dataset, rows: RowSchema) -> Coordinates:
    """Those in which the information is."""
    p = len(rows.feature_labels)
    location, scale = found["response"].transpose("moment", ...).values
    if found["response"].ndim == 1:
        location, scale = float(location), float(scale)
    response = Scaling(location, scale, _matrix(found, "nuisance_scale", (0,)))
    center = _matrix(found, "center", (p,))

    def part(prefix: str) -> Coordinates:
        transform = _matrix(found, f"{prefix}transform", (0, p))
        return Coordinates(center, transform, _matrix(found, f"{prefix}inverse", (p, 0)), response)

    own = part("")._replace(offset=rows.columns.offset)
    return own if rows.columns.shared else own._replace(gating=part("gate_"))


def _matrix(found: xr.Dataset, name: str, empty: tuple[int, ...]) -> FloatArray:
    values = found[name].values if name in found else np.zeros(empty)
    return np.asarray(values, dtype=np.float64)


def describe(parts: ModelParts) -> xr.Dataset | None:
    """The information with a label for every parameter, its experts in the order of the model."""
    memory = memory_from(parts)
    if memory is None or parts.information is None:
        return None
    layout = Layout.of(memory.parameters)
    names, family = expert_names(parts.params), parts.densities
    labels = [("gate", name, str(j)) for name in names[:-1] for j in range(layout.q_gate)]
    classes = range(layout.n_predictors)
    for name in names:
        labels += [
            ("coef", name, f"{c}, {j}" if family.nominal or family.by_predictor else str(j))
            for c in classes
            for j in range(layout.q_expert)
        ]
    each = range(family.n_nuisances) if family.by_predictor else [""]
    labels += [(f"log {n.name}", name, str(d)) for name in names for n in family.nuisances for d in each]
    texts = np.array([f"{v}[{e}, {d}]" if d else f"{v}[{e}]" for v, e, d in labels], dtype=np.str_)
    told = {
        key: (PARAMETER, np.array(column, dtype=np.str_))
        for key, column in zip(("variable", EXPERT, "direction"), zip(*labels, strict=True), strict=True)
    }
    values = {
        "information": ((PARAMETER, OTHER_PARAMETER), memory.information),
        "gradient": (PARAMETER, memory.gradient),
        "estimate": (PARAMETER, layout.pack(memory.parameters)),
    }
    described = {name: (*found, {"long_name": _TEXTS[name]}) for name, found in values.items()}
    beside = parts.information.drop_vars([*values, "order", "nuisance_scale", "response"], errors="ignore")
    beside = beside.rename({"direction": "whitened_direction"}) if "direction" in beside.dims else beside
    coords = {PARAMETER: texts, OTHER_PARAMETER: texts, **told}
    return xr.Dataset(described, coords).merge(beside)
