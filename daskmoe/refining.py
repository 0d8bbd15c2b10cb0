"""`refine`: take any model to the maximum of the likelihood of all rows, without collecting them."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import xarray as xr

from daskmoe.config import ON_ERROR, LocalFitOptions, check_choice, check_integer
from daskmoe.engine import FitRequest
from daskmoe.engine.refine import Refinement, refine_rounds
from daskmoe.errors import InvalidOptionError
from daskmoe.labelling import label_parameters
from daskmoe.model import MixtureOfExperts, open_model
from daskmoe.numerics.alignment import canonical_indices
from daskmoe.numerics.inference import jacobian, standard_errors
from daskmoe.numerics.parameters import FloatArray
from daskmoe.reporting import report_refinement
from daskmoe.rows import Data, match_schema, plan_partitions, source_of
from daskmoe.schema import EXPERT

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
        options=LocalFitOptions(n_experts=model.n_experts, family=model.family),
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


def label_refinement(model: MixtureOfExperts, refinement: Refinement) -> MixtureOfExperts:
    """The model with refined parameters, the story of the rounds, and standard errors if there are any."""
    order = canonical_indices(refinement.parameters)
    infos = refinement.infos
    columns = {
        "round_log_likelihood": (
            "log-likelihood where the round evaluated it, in nats",
            "log_likelihood",
        ),
        "round_objective": ("penalized log-likelihood there, in nats", "objective"),
        "round_damping": ("damping of the step after it: 0 Newton, 1 EM", "damping"),
        "round_step": ("largest change of a whitened parameter in that step", "step"),
        "round_accepted": ("1 where the objective did not fall", "accepted"),
    }
    added: dict[str, Any] = {
        name: ("round", np.array([float(getattr(info, field)) for info in infos]), {"long_name": text})
        for name, (text, field) in columns.items()
    }
    assert refinement.state.accepted is not None
    weight = refinement.state.accepted.statistics.weight
    added["refined_weight"] = ((), weight, {"long_name": "sum of the row weights of the refinement"})
    added["round_seconds"] = ("round", np.array(refinement.seconds), {"long_name": "seconds of the round"})
    known = xr.Dataset() if model.diagnostics is None else model.diagnostics
    # A model may be refined more than once: its last rounds are told.
    known = known.drop_dims([dim for dim in ("round", "kind") if dim in known.dims])
    if EXPERT in known.dims:
        known = known.isel({EXPERT: order}).drop_vars(EXPERT, errors="ignore")
    diagnostics = known.assign(added).assign_attrs(refinement_converged=int(refinement.converged))
    if refinement.converged:
        diagnostics = diagnostics.merge(_errors(model, refinement, order), combine_attrs="override")
    return MixtureOfExperts.from_parameters(
        refinement.parameters.take(order),
        family=model.family,
        rows=model.rows,
        options={**model.options, "refine": len(infos)},
        diagnostics=diagnostics,
        local=model.local_estimates,
    )


def _errors(model: MixtureOfExperts, refinement: Refinement, order: np.ndarray[Any, Any]) -> xr.Dataset:
    """Standard errors ``standard_error_...`` by ``kind``: robust ones where there are scores."""
    assert refinement.state.accepted is not None
    accepted = refinement.state.accepted
    derivative = jacobian(accepted.parameters, refinement.coordinates, order)
    size = accepted.parameters.n_experts
    kinds: dict[str, FloatArray | None] = {"model": None}
    if refinement.scores is not None:
        kinds["robust"] = refinement.scores
    labelled = [
        label_parameters(
            standard_errors(accepted.statistics.information, scores, derivative, size), model.rows
        )
        for scores in kinds.values()
    ]
    both = xr.concat(labelled, xr.DataArray(list(kinds), dims="kind", name="kind"))
    return both.rename({name: f"standard_error_{name}" for name in both.data_vars})
