"""`refine`: take any model to the maximum of the likelihood of all rows, without collecting them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from daskmoe.api.caller import short_errors
from daskmoe.api.hooks import HOOKS
from daskmoe.engine import FitRequest, plan_passes, run_rounds
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms, any_model_at
from daskmoe.options import FitOptions, OnError, OnMissingChunks, Progress, Rounds, check_rounds
from daskmoe.rows import Data


@short_errors
def refine(
    model: MixtureOfExperts | str | os.PathLike[str],
    data: Data,
    *,
    rounds: Rounds = 3,
    partitions: int | str | None = None,
    on_error: OnError = "raise",
    missing_chunks: OnMissingChunks = "warn",
    cluster: str | None = None,
    progress: Progress = "auto",
) -> MixtureOfExperts:
    """Maximize the penalized log-likelihood of all rows from a model that is at hand.

    Each round is one pass over the partitions: they return their log-likelihood, gradient and observed
    information at the trial parameters, whose sums give the next damped Newton step

        ((1 - d) I_observed + d I_complete) step = gradient.

    The objective never falls, and its maximum, the global estimator G of the paper, does not depend on how
    the rows are partitioned.

    Parameters
    ----------
    model : MixtureOfExperts, MixtureWithAtoms or path
        The start: of `fit`, `fit_local`, `aggregate`, or the user's own; or where it was saved.
    data : xr.Dataset or path
        Labelled as in the fit.
    rounds : int or "converged"
        Most rounds. The first evaluates the model as it is: one alone moves nothing. None is run that would
        gain nothing.
    partitions : int, str or None
        As in `fit`.
    on_error : {"raise", "skip"}
        As in `fit`.
    missing_chunks : {"raise", "warn", "fill"}
        As in `fit`.
    cluster : str, optional
        A variable over the sample dimensions, such as a day or a station: rows of a value may depend on each
        other, which ``standard_errors("cluster")`` then allow for. None takes the partitions as the clusters.
        A cluster's rows may lie in several partitions; one task holds a score, P numbers, of each cluster.
    progress : "auto", False or callable
        As in `fit`.

    Returns
    -------
    MixtureOfExperts
        ``diagnostics`` has ``round_log_likelihood``, ``round_objective``, ``round_damping``, ``round_step``
        and ``round_seconds``, and says in ``refinement_converged`` whether the maximum was reached. If it
        was, there are `standard_errors`; robust and cluster ones come with the last round, or take a round
        to spare. Near it there are approximate ones.

    Raises
    ------
    InvalidOptionError, InvalidDataError, SchemaError, StoreError
        For options or data that do not fit the model, or a model that cannot be opened.
    PartitionError
        If a partition cannot be read, with ``on_error="skip"`` if none can, or if the rows differ between two
        rounds.

    Warns
    -----
    ConvergenceWarning
        If it was to converge and did not, or ends more than 1e-4 nats a row short of a maximum.

    References
    ----------
    arXiv:2312.09877, section 2 (the global estimator).

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, chunks=500, random_state=0)
    >>> model = daskmoe.refine(truth, data, rounds="converged")
    >>> bool(model.log_likelihood(data) > truth.log_likelihood(data))
    True
    """
    return cast(
        MixtureOfExperts,
        refined_by(
            plan_refinements(
                model,
                data,
                rounds=rounds,
                cluster=cluster,
                partitions=partitions,
                on_error=on_error,
                missing_chunks=missing_chunks,
                progress=progress,
            )
        ),
    )


class RefinementPlan(NamedTuple):
    """Rounds from a model, their input checked."""

    model: MixtureOfExperts
    request: FitRequest


def plan_refinements(
    model: MixtureOfExperts | MixtureWithAtoms | str | os.PathLike[str],
    data: Data,
    *,
    rounds: Rounds = 3,
    cluster: str | None = None,
    **options: Any,
) -> list[RefinementPlan]:
    """The rounds of a model, or those of the two of one with atoms, whose likelihoods multiply."""
    rounds = check_rounds("rounds", rounds, 1)
    found = any_model_at(model, "model")
    parts = (found.atom_gates, found.experts) if isinstance(found, MixtureWithAtoms) else (found,)
    return [_plan(each, data, rounds, cluster, options) for each in parts]


def refined_by(plans: Sequence[RefinementPlan]) -> MixtureOfExperts | MixtureWithAtoms:
    """Run the rounds of a plan."""
    parts = [run_rounds(plan.request, HOOKS, plan.model) for plan in plans]
    return MixtureWithAtoms(*parts) if len(parts) > 1 else parts[0]


def _plan(
    model: MixtureOfExperts, data: Data, rounds: Rounds, cluster: str | None, known: dict[str, Any]
) -> RefinementPlan:
    options = FitOptions(
        n_experts=model.n_experts,
        family=model.family,
        refine=rounds,
        prior_strength=model.options.get("prior_strength", 1.0),
        min_scale=model.options.get("min_scale"),
        random_state=0,
        weight_kind=model.options.get("weight_kind", "frequency"),
        # What no response left in the fit tells none in the rounds.
        support="labelled" if model.options.get("support", "labelled") == "labelled" else "features",
        **known,
    )
    return RefinementPlan(model, plan_passes(data, model.rows, options, cluster))
