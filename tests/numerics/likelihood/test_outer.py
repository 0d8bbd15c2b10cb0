"""Gates and experts with features of their own, held to a model of all features with zeros."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block, Observations
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.scores import _summed_scores
from daskmoe.numerics.likelihood.statistics import likelihood_statistics
from daskmoe.numerics.local.em import em_statistics
from numerics.oracles import other_model, random_rows

N_EXPERTS = 3
# Positions of the gates' and of the experts' columns in [1, x] with four features.
CASES = {
    "overlap": ([0, 1, 2], [0, 2, 3, 4]),
    "as many": ([0, 1, 2], [0, 3, 4]),
    "constant gates": ([0], [0, 1, 2, 3, 4]),
    "constant experts": ([0, 4, 1], [0]),
}


def blocks_of(rows: Observations, gates: list[int] | None, experts: list[int]) -> list[Block]:
    design = np.column_stack([np.ones(rows.n_rows), rows.features]).T
    return [
        Block(
            design[experts, s], rows.response[s], rows.weight[s], None if gates is None else design[gates, s]
        )
        for s in (slice(0, 11), slice(11, None))
        if rows.weight is not None
    ]


def positions(whole: Layout, gates: list[int], experts: list[int]) -> NDArray[np.intp]:
    """Where the parameters of the model are among those of the model of all features."""
    index = np.arange(whole.size)
    gate = index[whole.gates].reshape(-1, whole.q_gate)[:, gates]
    coef = index[whole.coefs].reshape(-1, whole.q_expert)[:, experts]
    return np.concatenate([gate.ravel(), coef.ravel(), index[whole.nuisances]])


@pytest.mark.parametrize("family", ["gaussian", "gamma", "poisson"])
@pytest.mark.parametrize("case", CASES)
def test_sums_are_those_of_zeros_in_all_features(case: str, family: str, rng: np.random.Generator) -> None:
    gates, experts = CASES[case]
    kind = get_family(family)
    rows = random_rows(rng, 25, 4, weighted=True)
    rows = rows._replace(response=np.abs(rows.response).round() + 1.0)
    whole = Layout(N_EXPERTS, 5, 5, 1, kind.n_nuisances)
    model = other_model(rng, whole)
    zeros = MoEParameters(np.zeros_like(model.gate), np.zeros_like(model.coef), model.nuisance)
    zeros.gate[:, gates], zeros.coef[..., experts] = model.gate[:, gates], 0.3 * model.coef[..., experts]
    own = MoEParameters(zeros.gate[:, gates], zeros.coef[..., experts], model.nuisance)
    everything = blocks_of(rows, None, [0, 1, 2, 3, 4])
    apart = blocks_of(rows, gates, experts)
    index = positions(whole, gates, experts)
    assert Layout.of(own).size == index.size

    ask = {"scores": True, "metric": True, "story": True}
    expected = likelihood_statistics(zeros, everything, kind, **ask)
    found = likelihood_statistics(own, apart, kind, **ask)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    np.testing.assert_allclose(found.gradient, expected.gradient[index], rtol=1e-9, atol=1e-9)
    for name in ("information", "complete", "metric", "scores"):
        own_matrix, matrix = getattr(found, name), getattr(expected, name)[np.ix_(index, index)]
        np.testing.assert_allclose(own_matrix, matrix, rtol=1e-9, atol=1e-9 * np.abs(matrix).max())

    codes = np.arange(rows.n_rows) % 4
    of_codes = [_summed_scores(m, b, codes, 4, kind) for m, b in ((zeros, everything), (own, apart))]
    np.testing.assert_allclose(of_codes[1], of_codes[0][:, index], rtol=1e-9, atol=1e-9)

    first = em_statistics(Runs.one(zeros), everything, kind)
    second = em_statistics(Runs.one(own), apart, kind)
    np.testing.assert_allclose(second.gate_gradient, first.gate_gradient[..., gates], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(second.expert_moment, first.expert_moment[..., experts], rtol=1e-9, atol=1e-9)
    gram, information = first.expert_gram, first.gate_information
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(second.expert_gram, gram[..., experts, :][..., experts], **close)
    np.testing.assert_allclose(second.gate_information, information[..., gates, :][..., gates], **close)
