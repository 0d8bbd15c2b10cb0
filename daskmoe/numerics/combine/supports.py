"""The rows at which expectations over x are taken: pooled from partitions, or drawn from their moments.

Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from daskmoe.numerics.base.parameters import FloatArray, Moments, SupportSample


def pool_support(samples: Sequence[SupportSample], weights: FloatArray) -> SupportSample:
    """One support sample from the partitions' shares, each weighing what its partition does.

    Responses are kept only if every share has them.
    """
    kept = [(s, w) for s, w in zip(samples, weights, strict=True) if len(s.features) and w > 0]
    total = sum(w for _, w in kept)
    responses = [s.response for s, _ in kept]
    known = [r for r in responses if r is not None]
    return SupportSample(
        np.concatenate([s.features for s, _ in kept]),
        np.concatenate(known) if len(known) == len(responses) else None,
        np.concatenate([s.weight * (w / total) for s, w in kept]),
        kept[0][0].columns,
    )


def synthetic_support(
    moments: Sequence[Moments], shares: Sequence[int], rng: np.random.Generator
) -> SupportSample:
    """Rows of features drawn from one normal distribution a partition, with that partition's moments.

    Parameters
    ----------
    moments : sequence of Moments
        Of features and response; the response's are not used.
    shares : sequence of int
        Rows to draw for each.
    rng : numpy.random.Generator
    """
    samples = [
        SupportSample(_draw(each, share, rng), None, np.full(share, 1.0 / max(share, 1)), each.columns)
        for each, share in zip(moments, shares, strict=True)
    ]
    return pool_support(samples, np.array([each.weight for each in moments]))


def _draw(moments: Moments, n_rows: int, rng: np.random.Generator) -> FloatArray:
    p = moments.n_features
    values, vectors = np.linalg.eigh(moments.scatter[:p, :p] / moments.weight)
    root = vectors * np.sqrt(values.clip(0.0))
    return np.asarray(moments.mean[:p] + rng.standard_normal((n_rows, p)) @ root.T)
