"""A model as one flat dataset, and writing datasets whole or not at all.

Parts other than the parameters (diagnostics, local estimates) keep their structure behind a prefix of all
their names, dimensions included, so that both formats hold the same and netCDF 3 suffices, which SciPy reads
and writes. All attributes of a saved model are strings, JSON where they have a structure.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr

from daskmoe.errors import OutputExistsError, SchemaError, StoreError
from daskmoe.model import empty
from daskmoe.model.trust import check_store
from daskmoe.numerics.families import Family, get_family
from daskmoe.rows import RowSchema
from daskmoe.rows.names import (
    ATTR_CREATED,
    ATTR_FAMILY,
    ATTR_OPTIONS,
    ATTR_ROWS,
    ATTR_SCHEMA_VERSION,
    ATTR_VERSION,
    ATTR_WEIGHT,
    DIAGNOSTICS,
    INFORMATION,
    LOCAL_ESTIMATES,
    PART_SEPARATOR,
    PARTS,
    SCHEMA_VERSION,
)

# Before the names of what is of the atoms' gates.
GATES = "atoms"


class ModelParts(NamedTuple):
    """Everything a model consists of."""

    params: xr.Dataset
    diagnostics: xr.Dataset | None
    local_estimates: xr.Dataset | None
    family: str
    rows: RowSchema
    # The options of the fit; JSON can hold them.
    options: Mapping[str, Any]
    # Sum of the row weights of the last fit.
    weight: float | None = None
    # What the model remembers of its rows (`memory`).
    information: xr.Dataset | None = None

    @property
    def densities(self) -> Family:
        """The family itself, for as many classes as the target has."""
        return get_family(self.family, self.rows.response_size)


def flatten(parts: ModelParts) -> xr.Dataset:
    """All parts of a model as one dataset, with string attributes that `unflatten` reads."""
    flat = parts.params.drop_attrs(deep=False)
    flat.attrs = {
        ATTR_SCHEMA_VERSION: str(SCHEMA_VERSION),
        ATTR_VERSION: _own_version(),
        ATTR_FAMILY: parts.family,
        ATTR_ROWS: parts.rows.to_json(),
        ATTR_OPTIONS: json.dumps(dict(parts.options)),
        ATTR_WEIGHT: json.dumps(parts.weight),
    }
    for name in PARTS:
        part = getattr(parts, name)
        if part is not None:
            renamed = part.rename(
                {old: f"{name}{PART_SEPARATOR}{old}" for old in {*part.variables, *part.dims}}
            )
            flat = flat.merge(renamed, combine_attrs="override")
            # Its attributes, and the sign that the part is there, even an empty one.
            flat.attrs[name] = json.dumps(part.attrs)
    return flat


def unflatten(flat: xr.Dataset, source: str) -> ModelParts:
    """The parts of a model from the dataset that `flatten` made.

    Parameters
    ----------
    flat : xr.Dataset
    source : str
        Where the dataset comes from, for error messages.

    Raises
    ------
    SchemaError
        If the dataset is not a model, or one of another schema version.
    """
    found = flat.attrs.get(ATTR_SCHEMA_VERSION)
    if found is None:
        raise SchemaError(
            f"{source}: not a daskmoe model: expected the attribute {ATTR_SCHEMA_VERSION!r}, "
            f"got {sorted(map(str, flat.attrs))}."
        )
    if str(found) != str(SCHEMA_VERSION):
        raise SchemaError(
            f"{source}: expected a model of schema version {SCHEMA_VERSION}, got version {found}, written "
            f"by daskmoe {flat.attrs.get(ATTR_VERSION, '?')}; open it with that version or fit again."
        )
    try:
        rows = RowSchema.from_json(flat.attrs[ATTR_ROWS])
        options = json.loads(flat.attrs[ATTR_OPTIONS])
        family = str(flat.attrs[ATTR_FAMILY])
        # Version 0.1.0 stored none.
        weight = json.loads(flat.attrs.get(ATTR_WEIGHT, "null"))
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"{source}: the attributes of the model are damaged: {error!r}.") from error
    own = [name for name in flat.variables if not str(name).startswith(tuple(map(_prefix, PARTS)))]
    return ModelParts(
        flat[own].drop_attrs(deep=False),
        _part(flat, DIAGNOSTICS),
        _part(flat, LOCAL_ESTIMATES),
        family,
        rows,
        options,
        weight,
        _part(flat, INFORMATION),
    )


def prefixed(ds: xr.Dataset, name: str) -> xr.Dataset:
    """A dataset with a name and a dot before those of all its variables and dimensions."""
    return ds.rename({old: f"{name}{PART_SEPARATOR}{old}" for old in {*ds.variables, *ds.dims}})


def with_gates(experts: xr.Dataset, gates: xr.Dataset) -> xr.Dataset:
    """The flat dataset of a model beside atoms: that of the experts, with that of the atoms' gates in it."""
    flat = experts.merge(prefixed(gates, GATES), combine_attrs="override")
    return flat.assign_attrs({GATES: json.dumps(gates.attrs)})


def without_gates(flat: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset | None]:
    """The flat datasets of the experts, and of the atoms' gates where there are atoms."""
    gates = _part(flat, GATES)
    if gates is None:
        return flat, None
    own = [name for name in flat.variables if not str(name).startswith(_prefix(GATES))]
    attrs = {name: value for name, value in flat.attrs.items() if name != GATES}
    experts = flat[own]
    return experts.drop_vars([name for name in experts.variables if name not in own]).assign_attrs(
        attrs
    ), gates


def stamped(flat: xr.Dataset) -> xr.Dataset:
    """The flat model with the time of its creation, which only a saved model has."""
    return flat.assign_attrs({ATTR_CREATED: datetime.now(UTC).isoformat(timespec="seconds")})


def save_zarr(ds: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a dataset to a Zarr store, chunk by chunk; where ``path`` is local, whole or not at all.

    Parameters
    ----------
    ds : xr.Dataset
        In memory or lazy; its chunks become the store's, ragged ones made regular.
    path : str or path
        A folder, or a URL.
    overwrite : bool
        Whether a Zarr store that is there makes way for it.

    Raises
    ------
    OutputExistsError
        If ``path`` exists, with ``overwrite`` if it is no Zarr store.
    """
    # Zarr has a stable specification for texts of variable length only.
    ds = _with_regular_chunks(_as_dtype(ds.drop_encoding(), {"U": np.dtypes.StringDType()}))
    if not _is_url(path):
        with _new_path(path, _is_store if overwrite else None) as temporary:
            _write_zarr(ds, temporary)
        return
    try:
        _write_zarr(ds, str(path), overwrite=overwrite)
    except FileExistsError as error:
        raise _exists(path) from error


def _write_zarr(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> None:
    ds.to_zarr(path, mode="w" if overwrite else "w-", zarr_format=3, consolidated=False)
    # Else xarray warns whoever opens the store. Zarr 3 warns that other software may not know such metadata.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        zarr.consolidate_metadata(path, zarr_format=3)


def save_netcdf(ds: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a dataset to a netCDF 3 file, whole or not at all.

    Parameters
    ----------
    ds : xr.Dataset
    path : str or path
    overwrite : bool
        Whether a netCDF file that is there makes way for it.

    Raises
    ------
    OutputExistsError
        If ``path`` exists, with ``overwrite`` if it is no netCDF file.
    StoreError
        If ``path`` is a URL.
    """
    if _is_url(path):
        raise StoreError(f"{path}: expected a local path for netCDF, got a URL; use to_zarr.")
    ds = empty.as_attribute(_without_long_integers(_with_fixed_texts(ds.drop_encoding())))
    with _new_path(path, _is_netcdf if overwrite else None) as temporary:
        ds.to_netcdf(temporary, engine="scipy", format="NETCDF3_64BIT")


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read the flat dataset of a saved model into memory, from a Zarr store or a netCDF file.

    Raises
    ------
    StoreError
        If ``path`` does not exist, or is neither a Zarr store nor a netCDF file.
    """
    local = Path(path)
    if not _is_url(path) and not local.exists():
        raise StoreError(f"{path}: expected a saved model, got nothing: the path does not exist.")
    # Nothing in a model is a time; without this a variable with units "s" would come back as one.
    options: dict[str, Any] = {"decode_times": False}
    if _is_url(path) or local.is_dir():
        check_store(str(path))
        options |= {"engine": "zarr", "consolidated": False}
    elif _starts_with(local, b"CDF"):
        options |= {"engine": "scipy"}
    try:
        flat = xr.load_dataset(path, **options)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{path}: expected a saved model, a Zarr store or netCDF file; it cannot be read as one: {error}"
        ) from error
    # Back to the dtypes it had before it was saved, and to indexes.
    flat = _as_dtype(_with_fixed_texts(empty.as_variables(flat).drop_encoding()), {"i": np.int64})
    return xr.Dataset(flat.data_vars.variables, flat.coords.variables, flat.attrs)


def _own_version() -> str:
    try:
        return version("daskmoe")
    except PackageNotFoundError:
        return "not installed"


def _prefix(part: str) -> str:
    return f"{part}{PART_SEPARATOR}"


def _part(flat: xr.Dataset, name: str) -> xr.Dataset | None:
    if name not in flat.attrs:
        return None
    prefix = _prefix(name)
    variables = [old for old in flat.variables if str(old).startswith(prefix)]
    part = flat[variables]
    part = part.drop_vars([old for old in part.variables if old not in variables])
    part = part.rename({old: str(old).removeprefix(prefix) for old in {*part.variables, *part.dims}})
    part.attrs = json.loads(flat.attrs[name])
    return part


def _as_dtype(ds: xr.Dataset, dtypes: Mapping[str, Any]) -> xr.Dataset:
    """The dataset with other dtypes, by the kind of those it has; indexes are left out."""
    # An index would turn labels into objects again.
    out = ds.drop_indexes(list(ds.xindexes))
    changed = {
        name: variable.astype(dtypes[variable.dtype.kind])
        for name, variable in out.variables.items()
        if variable.dtype.kind in dtypes
    }
    coords = {name: changed.pop(name) for name in list(changed) if name in out.coords}
    return out.assign(changed).assign_coords(xr.Coordinates(coords, indexes={}))


def _with_fixed_texts(ds: xr.Dataset) -> xr.Dataset:
    # NumPy casts texts of variable length to a fixed length by way of objects only.
    return _as_dtype(_as_dtype(ds, {"T": object}), {"O": np.str_})


def _with_regular_chunks(ds: xr.Dataset) -> xr.Dataset:
    # Unified chunks may be ragged, and a chunk of a Zarr array has one size.
    grids = ds.unify_chunks().chunksizes
    ragged = {dim: max(sizes) for dim, sizes in grids.items() if len({*sizes[:-1], max(sizes)}) > 1}
    return ds.chunk(ragged) if ragged else ds


def _without_long_integers(ds: xr.Dataset) -> xr.Dataset:
    # netCDF 3 holds 32-bit integers only; a float64 holds larger ones exactly, up to 2**53.
    limit = np.iinfo(np.int32).max
    integers = {name: values for name, values in ds.data_vars.items() if values.dtype.kind in "iu"}
    long = {name: values for name, values in integers.items() if (abs(values) > limit).any()}
    return ds.assign({name: values.astype(np.float64) for name, values in long.items()})


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _is_url(path: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(path)


def _is_store(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def _is_netcdf(path: Path) -> bool:
    return path.is_file() and (_starts_with(path, b"CDF") or _starts_with(path, b"\x89HDF"))


def _exists(path: str | os.PathLike[str], wrong_kind: bool = False) -> OutputExistsError:
    if wrong_kind:
        return OutputExistsError(
            f"{path}: is something else than what is to be written, and is not overwritten; remove it or "
            "choose another path."
        )
    text = "exists already and is not overwritten; use overwrite=True, remove it, or choose another path."
    return OutputExistsError(f"{path}: {text}")


def require_new(path: str | os.PathLike[str]) -> None:
    """Raise `OutputExistsError` where there is something."""
    if os.path.lexists(path):
        raise _exists(path)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise `StoreError` where nothing can be made at a path; folders on the way to it are not made."""
    folder = Path(os.path.abspath(path)).parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(f"Expected an output that can be written, got {str(path)!r}: {error}.") from error


@contextmanager
def _new_path(
    path: str | os.PathLike[str], may_replace: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """A temporary sibling of ``path`` that takes its name when the block ends well, else is removed.

    What is there makes way only then, and only if ``may_replace`` says so of it.
    """
    final = Path(path)

    def check() -> None:
        if may_replace is None:
            require_new(final)
        elif os.path.lexists(final) and not may_replace(final):
            raise _exists(final, wrong_kind=True)

    check()
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    before = temporary.with_suffix(".old")
    try:
        yield temporary
        check()
        if may_replace is not None and os.path.lexists(final):
            final.rename(before)
        try:
            temporary.rename(final)
        except OSError:
            if os.path.lexists(before):
                before.rename(final)
            raise
    finally:
        for left in (temporary, before):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
