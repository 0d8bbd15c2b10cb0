"""Packed Gram matrices, held to outer products."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.packed import GramSums, packed_size, pairwise_products, unpack


@pytest.mark.parametrize("q", [1, 2, 5])
def test_weighted_products_unpack_to_gram_matrices(q: int, rng: np.random.Generator) -> None:
    rows, weights = rng.standard_normal((q, 9)), rng.uniform(0, 1, (2, 3, 9))
    products = pairwise_products(rows, np.full((packed_size(q), 9), np.nan))
    found = unpack(weights @ products.T)
    assert found.shape == (2, 3, q, q)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(found[index], (rows * weights[index]) @ rows.T, rtol=1e-12, atol=1e-13)


def test_packed_order_is_that_of_the_upper_triangle() -> None:
    rows = np.array([[2.0], [3.0], [5.0]])
    products = pairwise_products(rows, np.empty((6, 1)))
    assert products[:, 0].tolist() == [4.0, 6.0, 10.0, 9.0, 15.0, 25.0]


@pytest.mark.parametrize("precision", [np.float64, np.float32])
# Of 60 columns, up to 7 weights have matrix products of their own.
@pytest.mark.parametrize("n_weights", [1, 7, 16, 19])
@pytest.mark.parametrize("q", [1, 2, 4, 5, 60])
def test_sums_of_blocks_are_gram_matrices(
    q: int, n_weights: int, precision: type, rng: np.random.Generator
) -> None:
    # 700 rows of 60 columns are more than one part; even lengths have pairs that stand twice.
    sizes = (700, 700, 3)
    sums = GramSums(q, n_weights, precision)
    expected = np.zeros((n_weights, q, q))
    for size in sizes:
        design = np.concatenate([np.ones((1, size)), rng.standard_normal((q - 1, size))])
        weights = rng.uniform(0, 1, (n_weights, size))
        own = sums.empty_weights(size)
        own[:n_weights] = weights
        sums.add(design, own)
        expected += np.einsum("jn,an,bn->jab", weights, design, design, optimize=True)
    tolerance = 1e-11 if precision is np.float64 else 1e-3
    np.testing.assert_allclose(unpack(sums.packed), expected, rtol=0, atol=tolerance)
