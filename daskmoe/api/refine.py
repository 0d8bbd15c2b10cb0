"""`refine`: take any model to the maximum of the likelihood of all rows, without collecting them."""

from __future__ import annotations

import os
from typing import Any, Literal

from daskmoe.api.labelling import label_refinement
from daskmoe.api.reporting import report_refinement
from daskmoe.engine import FitRequest
from daskmoe.engine.rounds import refine_rounds
from daskmoe.errors import InvalidOptionError
from daskmoe.model import MixtureOfExperts, open_model
from daskmoe.options import ON_ERROR, check_choice, check_integer, local_fit_options
from daskmoe.rows import Data, match_schema, plan_partitions, source_of

Rounds = int | Literal["converged"]


def refine(
    model: MixtureOfExperts | str | os.PathLike[str],
    data: Data,
    *,
    rounds: Rounds = 3,
    partitions: int | str | None = None,
    on_error: str = "raise",
) -> MixtureOfExperts:
    """Maximize the penalized log-likelihood of all rows from a model that is at hand.

    Each round is one pass over the partitions: they return their log-likelihood, gradient and observed
    information at the trial parameters, whose sums give the next damped Newton step

        ((1 - d) I_observed + d I_complete) step = gradient.

    The objective never falls, and its maximum, the global estimator G of the paper, does not depend on how
    the rows are partitioned.

    Parameters
    ----------
    model : MixtureOfExperts or path
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

    Returns
    -------
    MixtureOfExperts
        ``diagnostics`` has ``round_log_likelihood``, ``round_objective``, ``round_damping``, ``round_step``
        and ``round_seconds``, and says in ``refinement_converged`` whether the maximum was reached. If it
        was, there are `standard_errors`; robust ones come with the last round, or take a round to spare.

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
        If it was to converge and did not.

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
    most = check_rounds("rounds", rounds, 1)
    check_choice("on_error", on_error, ON_ERROR)
    if isinstance(model, str | os.PathLike):
        model = open_model(model)
    dataset, source = source_of(data)
    schema = match_schema(dataset, model.rows, need_target=True)
    request = FitRequest(
        source=source,
        schema=schema,
        partitions=plan_partitions(dataset, schema, partitions),
        options=local_fit_options(n_experts=model.n_experts, family=model.family),
        support_size=1,
        seed=0,
        on_error="skip" if on_error == "skip" else "raise",
        checkpoint=None,
    )
    refined = label_refinement(model, refine_rounds(request, model.parameters, most, None))
    report_refinement(refined, most)
    return refined


def check_rounds(name: str, rounds: Any, minimum: int) -> int | None:
    """Most rounds, None for as many as it takes; `InvalidOptionError` for anything else."""
    if rounds == "converged":
        return None
    if isinstance(rounds, str):
        raise InvalidOptionError(f"{name}: expected a number of rounds or 'converged', got {rounds!r}.")
    return check_integer(name, rounds, minimum)
