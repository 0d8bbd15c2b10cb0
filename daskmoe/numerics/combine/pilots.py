"""The shared starts of all partitions: the optima of a sample that could be the best of all rows.

Pure NumPy. A sample of n rows tells two optima apart as far as their log-likelihoods differ by more than the
standard error of the difference, which the rows' own differences give (Vuong, 1989, section 4). Those that it
does not tell apart all go to the partitions, in the same read; their summed objective decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from daskmoe.numerics.base.observations import Observations, deviation_of_sum
from daskmoe.numerics.base.parameters import FloatArray, LocalEstimate, MoEParameters
from daskmoe.numerics.base.policies import CHOICE, LocalFit
from daskmoe.numerics.combine.expansion import Pilot, make_pilot
from daskmoe.numerics.families import Family, get_family
from daskmoe.numerics.local.fit import fit_local_optima
from daskmoe.numerics.predictive.mixture import log_density


def fit_pilots(sample: Observations, options: LocalFit, rng: np.random.Generator) -> list[Pilot]:
    """The shared starts that the rows of ``sample`` do not rule out, the best of them first."""
    family = get_family(options.family, options.response_size)
    optima = fit_local_optima(sample, replace(options, finalists=CHOICE.starts), rng)
    return [
        make_pilot(parameters, sample, family, options.regularization)
        for parameters in _not_ruled_out(sample, optima, family)
    ]


def _not_ruled_out(
    sample: Observations, optima: Sequence[LocalEstimate], family: Family
) -> list[MoEParameters]:
    """The best optimum and those within its sampling error, at most `ChoicePolicy.starts`."""
    found = [estimate.parameters for estimate in optima]
    best = found[0]
    assert best is not None
    own = _densities(sample, best, family)
    kept = [best]
    for estimate, parameters in zip(optima[1:], found[1:], strict=True):
        assert parameters is not None
        difference = own - _densities(sample, parameters, family)
        deviation = deviation_of_sum(difference, sample.weight)
        if optima[0].objective - estimate.objective <= CHOICE.deviations * deviation:
            kept.append(parameters)
    return kept[: CHOICE.starts]


def _densities(sample: Observations, parameters: MoEParameters, family: Family) -> FloatArray:
    return log_density(parameters, family, sample.features, np.asarray(sample.response, dtype=np.float64))
