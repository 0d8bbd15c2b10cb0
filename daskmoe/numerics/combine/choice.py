"""The best estimators of one communication step: from shared starts, or from independent fits alone.

Pure NumPy. Both average by information (`expansion`, `information`); what else the partitions' answers could
mean are candidates beside it, and the objective on all rows decides (`candidates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

from daskmoe.numerics.base.coordinates import Coordinates, coordinates_from
from daskmoe.numerics.base.hulls import Hulls, affine_hulls
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import spread_evenly
from daskmoe.numerics.base.observations import Observations, merge_moments
from daskmoe.numerics.base.parameters import (
    FloatArray,
    LargeMoE,
    Mixture,
    MoEParameters,
    Moments,
    SupportSample,
    canonical_indices,
    canonical_order,
)
from daskmoe.numerics.base.policies import CHOICE, EXPANSION, Regularization
from daskmoe.numerics.combine.candidates import (
    Ballot,
    Candidate,
    Tally,
    best_of,
    equal_experts,
    score_rows,
    scores_of,
)
from daskmoe.numerics.combine.expansion import Expansion, Pilot, own_curvature
from daskmoe.numerics.combine.first_step import StartSums, first_steps
from daskmoe.numerics.combine.information import information_average
from daskmoe.numerics.combine.one_step import frames_of, one_shots, summed_curvature
from daskmoe.numerics.combine.registry import Aggregate, aggregate_estimates
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.inference import Curvature
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.transport.plan import Experts, pointwise_plan
from daskmoe.numerics.transport.reduction import (
    ReductionResult,
    reduce_mixture,
    reduction_problem,
)

LEAST_SQUARES = "least squares"
PILOT = "pilot"
# What the best estimator from a shared start may be that is not made of local estimates alone.
FROM_PILOT = (
    "one-shot", "narrow one-shot", "half step", "Newton step", "damped step", "short step", "EM step",
    "sure step", PILOT, LEAST_SQUARES,
)  # fmt: skip


class Sent(NamedTuple):
    """What the partitions sent that could be fitted, in their order."""

    estimates: list[MoEParameters]
    # (M,)
    weights: FloatArray
    moments: list[Moments]
    # Of all of them or of none; from a shared start their sum alone.
    expansions: list[Expansion]
    support: SupportSample
    # Those that the expansions are in; by default those of the moments.
    coordinates: Sequence[Coordinates] = ()

    def aggregate(
        self, method: str, n_experts: int, family: Family, regularization: Regularization
    ) -> Aggregate:
        """One model from the estimates alone, by a method of `registry.AGGREGATORS`.

        The only estimate, which is the model itself then, comes with the information that it was sent with.
        """
        found = aggregate_estimates(
            method, self.estimates, self.weights, self.support, n_experts, family, self.moments
        )
        if found.chosen != "local" or not self.expansions:
            return found
        (expansion,), (known,) = self.expansions, self.moments
        (coordinates,) = self.coordinates or [coordinates_from(known, family.scaling(known))]
        prior = prior_from(known, coordinates, n_experts, family, regularization)
        return found._replace(curvature=own_curvature(expansion, self.estimates[0], coordinates, prior))


class Proposal(NamedTuple):
    """Candidates, the first of them the estimator that was asked for, and how each came about."""

    candidates: list[Candidate]
    # By name of a candidate; from shared starts those of most are made for the one that is chosen.
    aggregates: dict[str, Aggregate]
    # What was sent from each shared start, or once without one.
    sent: list[Sent]
    # Of all rows.
    known: _Penalized
    # The shared starts, if there are any.
    pilots: Sequence[Pilot] = ()

    @property
    def ballot(self) -> Ballot:
        """What partitions need to score the candidates."""
        return Ballot([c.parameters for c in self.candidates], self.known.coordinates, self.known.family)

    def curvature(self, winner: Candidate) -> Curvature | None:
        """What the partitions know near a candidate from a shared start, or of the start its sample."""
        if winner.kind == LEAST_SQUARES:
            return None
        assert isinstance(winner.parameters, MoEParameters)
        pilot, known = self.pilots[winner.start], self.known
        told = [] if winner.kind == PILOT else self.sent[winner.start].expansions
        order = canonical_indices(winner.parameters)
        return summed_curvature(
            told, pilot, known.pooled, winner.parameters, order, known.family, known.regularization
        )


class _Penalized(NamedTuple):
    """Makes candidates, which the penalty of all rows is known of."""

    pooled: Moments
    coordinates: Coordinates
    family: Family
    regularization: Regularization

    @classmethod
    def of(cls, sent: Sent, family: Family, regularization: Regularization) -> _Penalized:
        pooled = reduce(merge_moments, sent.moments)
        return cls(pooled, coordinates_from(pooled, family.scaling(pooled)), family, regularization)

    def candidate(self, kind: str, parameters: Mixture, start: int = 0) -> Candidate:
        """The candidate with its penalty."""
        penalty = 0.0
        if isinstance(parameters, MoEParameters):
            n_experts = parameters.n_experts
            prior = prior_from(self.pooled, self.coordinates, n_experts, self.family, self.regularization)
            penalty = float(prior.penalty(*self.coordinates.from_data(parameters)))
        return Candidate(kind, parameters, penalty, start)

    def least_squares(self, n_experts: int) -> list[Candidate]:
        """The model of one expert, which every fit knows exactly, where the family has it in closed form."""
        single = self.family.from_moments(self.pooled)
        known = [] if single is None else [equal_experts(single, n_experts)]
        return [self.candidate(LEAST_SQUARES, parameters) for parameters in known]


def propose_estimator(
    method: str, sent: Sent, n_experts: int, family: Family, regularization: Regularization
) -> Proposal:
    """An estimator by name, and least squares to hold it to."""
    found = sent.aggregate(method, n_experts, family, regularization)
    known = _Penalized.of(sent, family, regularization)
    first = known.candidate(found.chosen, found.parameters)
    candidates = [first, *known.least_squares(n_experts)]
    return Proposal(candidates, {first.name: found}, [sent], known)


def propose_one_shot(
    sent: Sequence[Sent], pilots: Sequence[Pilot], family: Family, regularization: Regularization
) -> Proposal:
    """From shared starts: the maximum of each one's summed expansions, and what is to be had without a step.

    That is half the way to it, steps from the start itself (`first_step`), the start, the reduction of the
    partitions' estimates and least squares. The moments of all rows make the prior.
    """
    known = _Penalized.of(sent[0], family, regularization)
    n_experts = pilots[0].parameters.n_experts
    single = family.from_moments(known.pooled) if n_experts == 1 else None
    if single is not None:
        found = _explained(single, "one-shot", pilots[0], sent[0], family)
        found = found._replace(log_likelihood=family.log_likelihood_from(known.pooled))
        candidates = [known.candidate("one-shot", single)]
        return Proposal(candidates, {"one-shot": found}, list(sent), known, pilots)
    candidates, behind = [], _behind(sent)
    for start, (pilot, own) in enumerate(zip(pilots, sent, strict=True)):
        maxima = one_shots(own.expansions, pilot, known.pooled, family, regularization)
        for name, whole in zip(("one-shot", "narrow one-shot"), maxima, strict=False):
            candidates.append(known.candidate(name, whole, start))
        if maxima:
            candidates.append(known.candidate("half step", _halfway(pilot, known.pooled, maxima[0]), start))
        steps = _first_steps(own, pilot, known)
        if start in behind:
            steps = {kind: steps[kind] for kind in CHOICE.steps_behind if kind in steps}
        candidates += [known.candidate(kind, parameters, start) for kind, parameters in steps.items()]
        candidates.append(known.candidate(PILOT, pilot.parameters, start))
    first = candidates[0].parameters
    assert isinstance(first, MoEParameters)
    reduced = _reduced(first, pilots[0], sent[0], family)
    aggregate = Aggregate(
        reduced.parameters,
        reduced.objectives,
        reduced.start_objectives,
        reduced.flow,
        reduced.converged,
        {},
        "reduction",
    )
    # The reduction that goes on from the first tells of its transport, too.
    explained = aggregate._replace(parameters=first, chosen=candidates[0].kind)
    aggregates = {candidates[0].name: explained, "reduction": aggregate}
    candidates.append(known.candidate("reduction", reduced.parameters))
    candidates += known.least_squares(n_experts)
    return Proposal(candidates, aggregates, list(sent), known, pilots)


def _behind(sent: Sequence[Sent]) -> set[int]:
    """The shared starts that all rows tell apart from the best one, so that a step seldom makes up for it."""
    known = [[each.start for each in own.expansions if each.start is not None] for own in sent]
    if not all(known):
        return set()
    weight = sum(each.weight for each in known[0])
    reached = [sum(each.log_likelihood for each in own) for own in known]
    least = max(reached) - EXPANSION.behind * weight
    return {start for start, value in enumerate(reached) if value < least}


def _first_steps(sent: Sent, pilot: Pilot, known: _Penalized) -> dict[str, MoEParameters]:
    """Steps from the start itself, by kind, in all directions that any rows see."""
    at_start = [each.start for each in sent.expansions if each.start is not None]
    frame = frames_of(pilot, known.pooled)[0]
    n_experts = pilot.parameters.n_experts
    prior = prior_from(known.pooled, frame.coordinates, n_experts, known.family, known.regularization)
    layout = Layout.of(frame.coordinates.from_data(pilot.parameters))
    sums = StartSums.of(at_start, pilot.parameters, frame)
    return first_steps(sums, layout, frame.coordinates, prior, known.family)


def _halfway(pilot: Pilot, pooled: Moments, whole: MoEParameters) -> MoEParameters:
    """The middle of the way from a start to where its expansions lead."""
    coordinates = frames_of(pilot, pooled)[0].coordinates
    start, end = coordinates.from_data(pilot.parameters), coordinates.from_data(whole)
    layout = Layout.of(start)
    middle = 0.5 * (layout.pack(start) + layout.pack(end))
    return coordinates.to_data(layout.unpack(middle))


def _reduced(parameters: MoEParameters, pilot: Pilot, sent: Sent, family: Family) -> ReductionResult:
    """The reduction of the partitions' estimates that goes on from given parameters."""
    large = LargeMoE.from_estimates(sent.estimates, sent.weights)
    return reduce_mixture(large, sent.support, [parameters], family, hulls=_hulls_with(pilot, sent))


def _explained(parameters: MoEParameters, name: str, pilot: Pilot, sent: Sent, family: Family) -> Aggregate:
    """A model from a shared start, with the reduction that goes on from there to tell of the transport."""
    reduced = _reduced(parameters, pilot, sent, family)
    return Aggregate(
        parameters,
        reduced.objectives,
        reduced.start_objectives,
        reduced.flow,
        reduced.converged,
        {},
        name,
    )


def _hulls_with(pilot: Pilot, sent: Sent) -> Hulls | None:
    """What estimates from a shared start know: what its sample or their own rows identify."""
    if pilot.unseen.none:
        return None
    return affine_hulls([merge_moments(pilot.moments, own) for own in sent.moments], sent.support)


def propose_independent(
    sent: Sent, n_experts: int, family: Family, regularization: Regularization
) -> Proposal:
    """From independent local fits, where no response may leave a partition.

    The local estimates averaged by their information, their experts matched by transport; the reduction with
    the plan that moves experts whole; the middle estimator; least squares.
    """
    whole = sent.aggregate("whole", n_experts, family, regularization)
    found = [whole]
    if whole.chosen != "local" and max(p.n_experts for p in sent.estimates) <= n_experts:
        found = _independent(sent, whole, n_experts, family, regularization)
    known = _Penalized.of(sent, family, regularization)
    candidates = [known.candidate(each.chosen, each.parameters) for each in found]
    candidates += known.least_squares(n_experts)
    return Proposal(candidates, {a.chosen: a for a in found}, [sent], known)


def _independent(
    sent: Sent, whole: Aggregate, n_experts: int, family: Family, regularization: Regularization
) -> list[Aggregate]:
    """The estimators of `propose_independent`, the average first where there is one."""
    locals_, support = sent.estimates, sent.support
    found = [whole]
    fitting = sorted(
        (p for p in locals_ if p.n_experts == n_experts), key=lambda p: p.coef[0].ravel().tolist()
    )
    if fitting:
        found.append(sent.aggregate("middle", n_experts, family, regularization))
    references = [p for each in found if isinstance(p := each.parameters, MoEParameters)]
    references += [fitting[m] for m in spread_evenly(len(fitting), CHOICE.references) if fitting]
    averaged = information_average(
        locals_,
        sent.moments,
        sent.expansions,
        references,
        support,
        family,
        regularization,
        sent.coordinates,
    )
    if averaged is not None:
        aggregate = _as_aggregate(averaged.parameters, whole, sent, family)
        found.insert(0, aggregate._replace(curvature=averaged.curvature))
    return found


def _as_aggregate(averaged: MoEParameters, whole: Aggregate, sent: Sent, family: Family) -> Aggregate:
    """The average by information, with the plan that moves the large MoE to it."""
    parameters = canonical_order(averaged)
    large = LargeMoE.from_estimates(sent.estimates, sent.weights)
    hulls = affine_hulls(sent.moments, sent.support)
    coordinates, problem = reduction_problem(large, sent.support, family, hulls)
    inner = coordinates.from_data(parameters)
    plan = pointwise_plan(problem, Experts(inner.coef, inner.nuisance))
    return whole._replace(parameters=parameters, flow=plan.flow, chosen="information")


def _on_support(proposal: Proposal) -> Tally | None:
    """What all rows say of the candidates, as the support has it; not of the only local estimate."""
    sent = proposal.sent[0]
    features, response, weight, columns = sent.support
    if response is None or proposal.candidates[0].kind == "local":
        return None
    rows = Observations(features, response, weight * sent.weights.sum(), columns=columns)
    return score_rows(rows, proposal.ballot)


def settle(proposal: Proposal, tally: Tally | None, *, choose: bool) -> tuple[Aggregate, int]:
    """The model, and the number of the shared start that it is from.

    Parameters
    ----------
    proposal : Proposal
    tally : Tally, optional
        The sum of `score_rows` over the partitions; None where these were not asked.
    choose : bool
        Whether the best candidate is taken, or the first, which was asked for, only scored.
    """
    candidates, everywhere = proposal.candidates, tally is not None
    if tally is None and not choose:
        # One that was asked for is held to the others on the labelled support, if there is one.
        tally = _on_support(proposal)
    scores = {} if tally is None else scores_of(candidates, tally.totals)
    winner = best_of(candidates, scores) if choose and scores else candidates[0]
    found = proposal.aggregates.get(winner.name)
    if found is None:
        assert isinstance(winner.parameters, MoEParameters)
        if proposal.pilots:
            start, family = winner.start, proposal.known.family
            pilot, sent = proposal.pilots[start], proposal.sent[start]
            found = _explained(winner.parameters, winner.kind, pilot, sent, family)
        else:
            # Least squares, beside which the first candidate tells of the transport.
            first = proposal.aggregates[candidates[0].name]
            found = first._replace(parameters=winner.parameters, chosen=winner.kind, curvature=None)
    told = None
    if tally is not None:
        place = [candidate.name for candidate in candidates].index(winner.name)
        told = tally.of(place)
        if everywhere:
            found = found._replace(log_likelihood=float(tally.totals[place]))
    if isinstance(found.parameters, MoEParameters):
        order = canonical_indices(found.parameters)
        found = found._replace(parameters=found.parameters.take(order), flow=found.flow[:, order])
        told = None if told is None else told._replace(mass=told.mass[order])
    from_sample = False
    if winner.kind == PILOT:
        # Weights of all rows are summed in another order there.
        everything = proposal.known.pooled.weight * (1.0 - 1e-9)
        from_sample = proposal.pilots[winner.start].moments.weight < everything
    found = found._replace(told=told, told_by_support=not everywhere, from_sample=from_sample)
    curvature = proposal.curvature(winner) if proposal.pilots else found.curvature
    return found._replace(candidates=scores, curvature=curvature), winner.start
