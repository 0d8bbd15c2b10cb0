"""Labelled data from a known mixture of experts, in memory or lazy."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import xarray as xr
from dask import array
from numpy.typing import NDArray

from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.predictive.designs import SimulationDesign, draw_design, sample_rows
from daskmoe.options import RandomState, check_integer, entropy_of
from daskmoe.rows import describe_rows

# Rows are drawn in blocks of this size, each from its own seed, so that chunks do not change the data.
_BLOCK_ROWS = 8_192


def simulate(
    n_rows: int,
    *,
    n_features: int,
    n_experts: int,
    design: str = "paper",
    chunks: int | None = None,
    random_state: RandomState = None,
) -> tuple[xr.Dataset, MixtureOfExperts]:
    """Draw rows from a known mixture of gaussian experts.

    y given x has the density sum_k pi_k(x) N(y; b_k0 + x'b_k, sigma_k^2) with softmax gates pi.

    Parameters
    ----------
    n_rows, n_features, n_experts : int
        n, p and K.
    design : {"paper", "overlap"}
        ``paper``: features from K groups with covariance 0.25^|i-j|, standardized; integer gates and slopes
        in [-5, 5], variances 4 or 5: steep gates. ``overlap``: balanced experts with zero intercepts, slopes
        in [-10, 10], variance 3, and the gates of a Gaussian class model with means 2.5 standard deviations
        apart.
    chunks : int, optional
        Rows a Dask chunk; the same data in memory if None.
    random_state : int, SeedSequence, Generator or None

    Returns
    -------
    data : xr.Dataset
        ``X(row, feature)`` and ``y(row)``.
    truth : MixtureOfExperts
        The model that the rows were drawn from.

    Raises
    ------
    InvalidOptionError
        For sizes below one or an unknown design.

    References
    ----------
    The ``paper`` design follows the simulations of arXiv:2312.09877, section 5.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(1000, n_features=4, n_experts=2, chunks=250, random_state=0)
    >>> data.chunksizes["row"], truth.n_experts
    ((250, 250, 250, 250), 2)
    """
    for name, value in (("n_rows", n_rows), ("n_features", n_features), ("n_experts", n_experts)):
        check_integer(name, value, 1)
    if chunks is not None:
        check_integer("chunks", chunks, 1)
    seed = entropy_of(random_state)
    # Rows use the spawn keys (0,), (1,), ...; the design draws from the seed itself.
    drawn = draw_design(design, n_features, n_experts, np.random.default_rng(np.random.SeedSequence(seed)))
    joint = _draw(drawn, seed, 0, n_rows) if chunks is None else _lazy(drawn, seed, n_rows, chunks)
    labels = np.array([f"x{j}" for j in range(n_features)], dtype=np.str_)
    data = xr.Dataset(
        {"X": (("row", "feature"), joint[:, :-1]), "y": ("row", joint[:, -1])}, {"feature": labels}
    )
    truth = MixtureOfExperts.from_parameters(
        drawn.parameters,
        family="gaussian",
        rows=describe_rows(data, "y", "X"),
        options={"design": design, "random_state": str(seed)},
    )
    return data, truth


def _draw(design: SimulationDesign, seed: int, start: int, stop: int) -> FloatArray:
    """Features and, last, the response of some rows, shape (stop - start, p + 1)."""
    blocks = []
    for block in range(start // _BLOCK_ROWS, -(-stop // _BLOCK_ROWS)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
        features, response = sample_rows(design, _BLOCK_ROWS, rng)
        blocks.append(np.column_stack([features, response]))
    offset = (start // _BLOCK_ROWS) * _BLOCK_ROWS
    return np.concatenate(blocks)[start - offset : stop - offset]


def _lazy(design: SimulationDesign, seed: int, n_rows: int, chunks: int) -> array.Array:
    """The same rows in chunks, each drawn from where it begins and ends."""
    starts = np.arange(0, n_rows, chunks)
    ends = np.minimum(starts + chunks, n_rows)
    extents = array.from_array(np.column_stack([starts, ends]), chunks=(1, 2))
    width = design.centers.shape[1] + 1
    sizes = tuple(map(int, ends - starts)), (width,)
    draw = partial(_draw_chunk, design, seed)
    return cast(array.Array, array.map_blocks(draw, extents, chunks=sizes, meta=np.empty((0, 0))))


def _draw_chunk(design: SimulationDesign, seed: int, extent: NDArray[np.intp]) -> FloatArray:
    return _draw(design, seed, *map(int, extent[0]))
