"""`select_n_experts`: how many experts the rows speak for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple, Unpack, cast

from daskmoe.api.caller import short_errors, warn
from daskmoe.api.columns import report_identifiers, report_undecoded
from daskmoe.api.fit import FitKeywords
from daskmoe.api.hooks import HOOKS
from daskmoe.engine import (
    FitRequest,
    hold_out,
    log_likelihoods_by_partition,
    of_presence,
    plan_request,
    run,
    run_sizes,
    with_size,
)
from daskmoe.errors import FitWarning, InvalidOptionError, TooFewRowsError
from daskmoe.model import MixtureOfExperts, MixtureWithAtoms
from daskmoe.model.selection import CRITERIA, Selection, compare
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.combine.registry import AGGREGATORS
from daskmoe.options import FitOptions, check_choice, check_integer, check_share
from daskmoe.rows import Data

logger = logging.getLogger(__name__)

# Of the partitions, where the criterion is what is held out.
_SHARE = 0.25


@short_errors
def select_n_experts(
    data: Data,
    target: str,
    *,
    n_experts: Iterable[int] = range(1, 7),
    criterion: str = "bic",
    held_out: float | None = None,
    **options: Unpack[FitKeywords],
) -> Selection:
    """Fit models of several numbers of experts, compare them, and choose one.

    All are fitted in one pass, in which a partition is read once for all of them, from shared starts that are
    fitted to one sample; a second pass scores them. Every model is the one that `fit` gives for its number of
    experts. With ``refine``, the rounds of one model follow those of the other, each with passes of its own.
    With ``atoms``, whose gates are the same beside all candidates, the table is of the rows at no atom.

    Parameters
    ----------
    data, target
        As in `fit`.
    n_experts : iterable of int
        The candidates; those with more parameters than there are rows are left out.
    criterion : {"bic", "aic", "icl", "held_out"}
        What is least, or of ``"held_out"`` most: the log-likelihood of partitions that no fit has seen.
    held_out : float, optional
        Share of the partitions, evenly spread, that is held out of fits which are made for this comparison
        alone, with passes of their own; by default a quarter for ``criterion="held_out"``, else none. The
        standard errors of its differences take partitions as blocks.
    **options
        As in `fit`, but for ``n_local_experts``, which follows the candidate, and ``compute``.

    Returns
    -------
    Selection
        ``table``, ``model`` (of all rows), ``models`` by number of experts, ``plot()``.

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError, PartitionError
        As `fit`.

    Warns
    -----
    FitWarning
        If the best is the last, so that more experts may be better. What `fit` warns of is said of the model
        that is chosen.

    References
    ----------
    Criteria as in `MixtureOfExperts.bic` and its siblings.

    Examples
    --------
    >>> import daskmoe
    >>> data, _ = daskmoe.simulate(4000, n_features=2, n_experts=2, design="overlap", random_state=1)
    >>> selection = daskmoe.select_n_experts(data, "y", n_experts=[1, 2, 3], partitions=8, held_out=0.25,
    ...                                      random_state=0)
    >>> selection.n_experts, int(selection.table["held_out"].idxmax())
    (2, 2)
    """
    plan = plan_selection(data, target, n_experts, criterion, held_out, dict(options))
    report_identifiers(plan.requests[0])
    report_undecoded(plan.requests[0])
    return select_among(plan)


class SelectionPlan(NamedTuple):
    """A selection, validated before anything is computed."""

    # One a candidate, from few experts to many; they share what is read.
    requests: list[FitRequest]
    criterion: str
    # Of the partitions that are held out; None where none are.
    share: float | None


def plan_selection(
    data: Data,
    target: str,
    n_experts: Iterable[int],
    criterion: str,
    held_out: float | None,
    options: dict[str, Any],
) -> SelectionPlan:
    """What is to be fitted and compared; nothing is computed."""
    check_choice("criterion", criterion, tuple(CRITERIA))
    sizes = sorted({check_integer("n_experts", size, 1) for size in n_experts})
    if not sizes:
        raise InvalidOptionError("n_experts: expected at least one candidate, got none.")
    if options.get("n_local_experts") is not None:
        raise InvalidOptionError("n_local_experts: expected none, as it follows the candidate.")
    chosen = FitOptions(n_experts=sizes[0], **options)
    if criterion == "icl" and chosen.aggregation != "auto" and AGGREGATORS[chosen.aggregation].nested:
        raise InvalidOptionError(
            f"criterion: expected another than 'icl' with aggregation={chosen.aggregation!r}, whose gates "
            "are nested: rows belong to no expert."
        )
    requests = _with_sizes(plan_request(data, target, chosen), sizes)
    share = _SHARE if held_out is None and criterion == "held_out" else held_out
    if share is not None:
        hold_out(requests[0], check_share("held_out", share))
    return SelectionPlan(requests, criterion, share)


def _with_sizes(first: FitRequest, sizes: list[int]) -> list[FitRequest]:
    """The request for every size that the rows allow; the first is of the least."""
    requests = [first]
    for size in sizes[1:]:
        try:
            requests.append(with_size(first, size))
        except TooFewRowsError as error:
            logger.warning("%d experts and more are left out: %s", size, error)
            break
    return requests


def select_among(plan: SelectionPlan) -> Selection:
    """Fit, compare, report and choose."""
    sizes = [request.options.n_experts for request in plan.requests]
    blocks = None if plan.share is None else _score_held_out(plan.requests, plan.share)
    fitted = dict(zip(sizes, run_sizes(plan.requests, HOOKS), strict=True))
    models = {size: model for size, (model, _) in fitted.items()}
    table = compare(models, plan.criterion, blocks)
    first = plan.requests[0]
    selection = Selection(table, models)
    if first.schema.atoms:
        # The same beside all of them: only the experts are compared, by the rows at no atom.
        gates = run(of_presence(first), HOOKS)
        beside = {size: MixtureWithAtoms(gates, model) for size, model in models.items()}
        selection = Selection(table, cast(dict[int, MixtureOfExperts], beside))
    if len(sizes) > 1 and selection.n_experts == sizes[-1]:
        warn(
            f"By {plan.criterion} the best number of experts is the last candidate, {sizes[-1]}: more may be "
            f"better. Go on with n_experts=range({sizes[-1]}, {sizes[-1] + 5}).",
            FitWarning,
        )
    HOOKS.report(*fitted[selection.n_experts])
    if rounds := plan.requests[0].options.refine:
        HOOKS.report_rounds(fitted[selection.n_experts][0], rounds)
    return selection


def _score_held_out(requests: list[FitRequest], share: float) -> tuple[FloatArray, FloatArray]:
    """Weights of the partitions that are held out, and their log-likelihoods under fits to the others."""
    divided = [hold_out(request, share) for request in requests]
    fitted = run_sizes([training for training, _ in divided], HOOKS)
    return log_likelihoods_by_partition(divided[0][1], [model.mixture for model, _ in fitted])
