"""Ascent by limited-memory BFGS in EM's metric, for models of many parameters.

Pure NumPy/SciPy. The observed information of P parameters costs K (K + 1) / 2 times what a gradient does and
more, and its factors P^3 / 3. The complete data's information is block-diagonal, one block for the gates and
one for each expert, and is about an EM pass: a step in it alone is one of EM's, and the two-loop recursion
(Nocedal and Wright 2006, algorithm 7.4) corrects it by what the last gradients did, as Jamshidian and
Jennrich (1997) accelerate EM. A step then costs a gradient.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import QUASI_NEWTON
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics
from daskmoe.numerics.local.levenberg import definite_root
from daskmoe.numerics.local.newton import NewtonResult, Slope

# The blocks of a definite matrix in all parameters, in their order.
Blocks = Callable[[MoEParameters], list[FloatArray]]


class _Pair(NamedTuple):
    """A step, what it took off the gradient, and the inverse of their product."""

    step: FloatArray
    change: FloatArray
    inverse: float


class _Metric:
    """Factors of a block-diagonal matrix."""

    def __init__(self, blocks: list[FloatArray]) -> None:
        self._roots = [definite_root(block) for block in blocks if len(block)]
        self._ends = np.cumsum([len(root) for root in self._roots])[:-1]

    def solve(self, vector: FloatArray) -> FloatArray:
        """The inverse times a vector (P,)."""
        parts = zip(self._roots, np.split(vector, self._ends), strict=True)
        return np.concatenate([scipy.linalg.cho_solve((root, True), part) for root, part in parts])


def climb(
    parameters: MoEParameters,
    slope: Slope,
    metric: Blocks,
    *,
    tolerance: float,
    max_passes: int,
    least: float = -np.inf,
) -> NewtonResult:
    """Ascend from ``parameters`` until the predicted gain falls under ``tolerance`` (log-likelihood units).

    ``slope`` gives value and gradient, ``metric`` the complete data's information. That is formed anew every
    `QuasiNewtonPolicy.renewed` steps while they gain much. One that at its pace would end under ``least`` is
    given up.
    """
    layout = Layout.of(parameters)
    state, passes, steps, idle = slope(parameters), 2, 0, 0
    pairs: deque[_Pair] = deque(maxlen=QUASI_NEWTON.pairs)
    known, looked = _Metric(metric(parameters)), state.value
    while passes < max_passes:
        step = layout.bounded(_direction(state.gradient, pairs, known))
        rise = float(state.gradient @ step)
        # Two in turn: one small step may lie across a long way.
        idle = idle + 1 if 0.5 * rise <= QUASI_NEWTON.share * tolerance else 0
        if idle == QUASI_NEWTON.confirmed:
            return NewtonResult(parameters, state.value, passes, True, state)
        found, length, used = _along(parameters, state, step, slope, max_passes - passes)
        passes += used
        if found is None:
            if not pairs:
                return NewtonResult(parameters, state.value, passes, rise <= tolerance, state)
            pairs.clear()
            continue
        moved, change = length * step, state.gradient - found.gradient
        product = float(moved @ change)
        if product > QUASI_NEWTON.curved * length * rise:
            pairs.append(_Pair(moved, change, 1.0 / product))
        parameters, state, steps = layout.shift(parameters, moved), found, steps + 1
        if steps % QUASI_NEWTON.renewed == 0:
            gained, looked = state.value - looked, state.value
            if state.value + QUASI_NEWTON.hope * gained < least:
                break
            if gained > QUASI_NEWTON.near * state.weight:
                known, passes = _Metric(metric(parameters)), passes + 1
    return NewtonResult(parameters, state.value, passes, False, state)


def _direction(gradient: FloatArray, pairs: deque[_Pair], metric: _Metric) -> FloatArray:
    """The two-loop recursion, uphill."""
    vector, shares = gradient.copy(), []
    for pair in reversed(pairs):
        shares.append(pair.inverse * float(pair.step @ vector))
        vector -= shares[-1] * pair.change
    vector = metric.solve(vector)
    for pair, share in zip(pairs, reversed(shares), strict=True):
        vector += (share - pair.inverse * float(pair.change @ vector)) * pair.step
    return vector


def _along(
    parameters: MoEParameters, start: LikelihoodStatistics, step: FloatArray, slope: Slope, most: int
) -> tuple[LikelihoodStatistics | None, float, int]:
    """Where the objective rises along ``step``, the share of it, and the points that were looked at."""
    layout, rise, length = Layout.of(parameters), float(start.gradient @ step), 1.0
    for looked in range(1, min(QUASI_NEWTON.line_points, most) + 1):
        found = slope(layout.shift(parameters, length * step))
        if found.value >= start.value + QUASI_NEWTON.armijo * length * rise:
            return found, length, looked
        bend = length * rise - (found.value - start.value)
        top = 0.5 * length * length * rise / bend if np.isfinite(bend) and bend > 0.0 else 0.0
        length = min(max(top, QUASI_NEWTON.shortest * length), 0.5 * length)
    return None, length, min(QUASI_NEWTON.line_points, most)
