"""Updates over new partitions: their summed expansions around a model, and scores of where these lead."""

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

from daskmoe.engine.allocation import reused_memory
from daskmoe.engine.passes import run_counted_sum, run_sum
from daskmoe.engine.progress import Watch
from daskmoe.engine.request import FitRequest
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.numerics.base.policies import MEMORY
from daskmoe.numerics.combine.candidates import Tally, Told, add_tallies, score_rows
from daskmoe.numerics.combine.memory import (
    Choice,
    Drift,
    Memory,
    add_news,
    drift_of,
    news_of,
    pilot_of,
    propose_update,
    settle_update,
)

logger = logging.getLogger(__name__)


class Update(NamedTuple):
    """What new rows made of a model."""

    choice: Choice
    drift: Drift
    # Of the new rows, under the updated model.
    told: Told
    log_likelihood: float
    rows: int
    weight: float
    dropped: int
    # Expansions that it took.
    passes: int


def update_rounds(request: FitRequest, memory: Memory, forget: float, watch: Watch) -> Update:
    """Expand the new rows around the model, take the step; again while it is far from what it was.

    `PartitionError` if no partition could be read.
    """
    family, regularization = request.family, request.options.regularization
    past = memory.discounted(forget)
    parameters, passes = memory.model, 0
    drift: Drift | None = None
    while True:
        passes += 1
        pilot = pilot_of(past, parameters, family, regularization)
        evaluate = partial(news_of, pilot=pilot, family=family)
        counted = run_counted_sum(request, "moe-expand", evaluate, add_news, watch=watch)
        news = counted.value
        with single_threaded_blas(), reused_memory():
            if drift is None:
                drift = drift_of(memory, pilot_of(memory, parameters, family, regularization), news)
            proposal = propose_update(past, pilot, news, family, regularization)
        ballot = proposal.ballot._replace(responses=request.sends.responses, entropies=True)
        score = partial(score_rows, ballot=ballot)
        tally: Tally = run_sum(request, "moe-score", score, add_tallies, watch=watch)
        with single_threaded_blas(), reused_memory():
            choice = settle_update(proposal, tally, regularization)
        logger.info("update, pass %d: %s, gain %.6g nats", passes, choice.candidate.kind, choice.gain)
        if choice.gain <= MEMORY.gain * proposal.pooled.weight or passes == MEMORY.passes:
            break
        parameters = choice.memory.model
    total = float(tally.totals[choice.place])
    return Update(
        choice, drift, tally.of(choice.place), total, news.rows, news.moments.weight, counted.dropped, passes
    )
