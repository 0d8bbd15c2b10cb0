"""How much is done and what counts as enough: the tuned numbers, each policy naming the study that set it.

A study is a section of a page of ``docs/design``. Numbers that only guard against division by zero stand
where they guard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf


@dataclass(frozen=True)
class Regularization:
    """What a caller says of the penalties (local_estimator: The objective)."""

    # Multiplies the priors: less goes to maximum likelihood.
    strength: float = 1.0
    # Least standard deviation of an expert, in the response's units, for all outputs or each; None for a
    # share of the response's own.
    min_scale: float | tuple[float, ...] | None = None

    def of_all_rows(self, n_experts: int, *, nominal: bool) -> Regularization:
        """That of a fit to all rows: one expert of classes is next to maximum likelihood.

        Parts of the rows may be separable where all of them are not, so theirs keep the priors.
        """
        if n_experts > 1 or not nominal:
            return self
        return replace(self, strength=self.strength * PRIOR.alone)


@dataclass(frozen=True, kw_only=True)
class LocalFit:
    """How one partition is fitted (local_estimator: The search)."""

    # K.
    n_experts: int
    # Expert density.
    family: str = "gaussian"
    # Classes of responses that are labels, outputs where responses are several numbers.
    response_size: int | None = None
    # Starts that race on the subsample; more join where they end in several optima.
    n_init: int = 12
    # Rows of that subsample; all rows where there are fewer.
    start_rows: int = 2_000
    # Limit of an ascent's Newton passes over all rows; the best one may take as many again.
    max_passes: int = 100
    # Converged when the predicted gain in log-likelihood a row falls under it, in nats.
    tolerance: float = 1e-9
    # Optima of a subsample that go on to all rows.
    finalists: int = 2
    # Factor of starts, of candidates that are polished and of jumps.
    effort: float = 1.0
    regularization: Regularization = Regularization()


@dataclass(frozen=True)
class PriorPolicy:
    """Strengths of the priors (local_estimator: The objective)."""

    # a, b and c of `likelihood.priors`: a pseudo-row or less each.
    gate: float = 0.5
    coef: float = 0.1
    nuisance: float = 1.0
    # w, a mean square of logits: gates steeper than its root are hardly drawn back. As a, of one slope.
    gate_width: float = 5.0
    # Of these strengths, what is left where one expert of classes has all rows.
    alone: float = 1e-6
    # f in units of the response's variance.
    floor_share: float = 2.25e-6
    # s0 in units of the variance that one linear regression leaves, and of the response's.
    spread_share: float = 1e-3
    least_spread: float = 1e-6
    # In squared standardized units of the response: below it a density is a spike of rounding errors.
    variance_floor: float = 1e-14


@dataclass(frozen=True)
class TailsPolicy:
    """Student t experts (local_estimator: Heavy tails)."""

    # Between which degrees of freedom lie, and from where on they are as good as gaussian, and not told.
    least_df: float = 1.0
    most_df: float = 200.0
    told_df: float = 100.0
    # Of starting experts.
    start_df: float = 8.0
    # Strength of the penalty on (most - df) / (df - least), and the value that it draws to.
    prior: float = 1.0
    spread: float = 1.0
    # As of `PriorPolicy`, both in units of the response's variance, most of which may be that of outliers.
    floor_share: float = 1e-10
    spread_share: float = 1e-6


@dataclass(frozen=True)
class DampingPolicy:
    """How the damping of a step follows from the one before (local_estimator: The optimizer)."""

    # Where damping begins, and under which it is none.
    first: float = 0.05
    smallest: float = 1e-3
    # Its factors after a step that falls, that gains a small share of what was predicted, a large one.
    falls: float = 3.0
    poor: float = 1.5
    good: float = 0.3
    # Those shares.
    poor_share: float = 0.25
    good_share: float = 0.7

    def after(self, damping: float, actual: float, predicted: float) -> float:
        """Less damping after a well predicted gain, more after a poor one."""
        if not actual >= 0:
            return max(self.falls * damping, self.first)
        ratio = actual / predicted if predicted > 0 else 0.0
        if ratio < self.poor_share:
            return max(self.poor * damping, self.first)
        if ratio > self.good_share:
            damping *= self.good
        return damping if damping > self.smallest else 0.0


@dataclass(frozen=True)
class NewtonPolicy:
    """Damped Newton steps (local_estimator: The optimizer)."""

    # Most that the logarithm of a nuisance moves in a step.
    largest_log_step: float = 2.0
    damping: DampingPolicy = DampingPolicy()
    # Products in single precision can leave a semi-definite matrix so far below zero; others farther.
    ridge: float = 1e-5
    more_ridge: float = 4.0
    # Predicted gain a row, in nats, below which an earlier point's information will do.
    near: float = 1e-4
    # Share of a gain that the next one may have left for that.
    contraction: float = 3e-2
    # Share up to which the whole step is trusted enough to form information at its end at once.
    uncertain: float = 0.2
    # Error that the last step may leave, in units of the tolerance.
    remainder: float = 1e-6
    # Points along a step that falls.
    line_points: int = 4
    # Least share of it that the next point keeps.
    shortest: float = 0.1
    # EM's step gaining less than this share of the tolerance is as stationary as rounding lets a point be.
    negligible: float = 1e-3
    # Standard errors of a random jump.
    jump: float = 3.0
    # At a saddle: the step along the most negative curvature, and what counts as negative, both in the scale
    # in which the complete data's information of a row has a unit diagonal.
    saddle_step: float = 0.5
    saddle_curvature: float = 1e-6
    # Passes between two looks at an ascent's pace, and what it is thought to gain yet, in units of the gain
    # between the last two.
    pace: int = 12
    hope: float = 1.0
    # Of the metric of steps, the curvature that counts as none.
    flat: float = 1e-6


@dataclass(frozen=True)
class QuasiNewtonPolicy:
    """Ascents of models of many parameters (local_estimator: Many parameters)."""

    # Parameters beyond which an ascent is one.
    many: int = 400
    # Of limits in passes: a gradient is a fraction of a pass with information, and steps are shorter.
    passes: int = 8
    # Last steps that are remembered.
    pairs: int = 20
    # Steps between two looks at the gain, and nats a row of it from which the metric is formed anew.
    renewed: int = 20
    near: float = 1e-3
    # Converged where so many steps in turn predict less than this share of the tolerance.
    confirmed: int = 2
    share: float = 0.1
    # How many times the last gain an ascent that is behind may still gain.
    hope: float = 2.0
    # Share of the rise that a step must gain, and of the product of step and change that is remembered.
    armijo: float = 1e-4
    curved: float = 1e-8
    # Points along a step that falls, and the least share of it that the next one keeps.
    line_points: int = 12
    shortest: float = 0.1


@dataclass(frozen=True)
class RacePolicy:
    """How starts race (local_estimator: The search)."""

    # EM passes before each halving of the field.
    passes: tuple[int, ...]
    # How many of the leaders are polished.
    polished: int
    # EM passes after them, for as long as several runs are left.
    last: int = 0
    # Of two runs no more nats a row apart, only the better goes on.
    close: float = 2e-4
    # Passes between two looks at the last runs.
    look: int = 4

    @property
    def stages(self) -> tuple[int, ...]:
        """Passes before every look at the field."""
        return (*self.passes, *[self.look] * (self.last // self.look))


@dataclass(frozen=True)
class SearchPolicy:
    """The search for the best optimum (local_estimator: The search)."""

    # Of ascents on a subsample, in nats a row: precision beyond its own sampling error is wasted.
    tolerance: float = 2e-4
    passes: int = 24
    first: RacePolicy = RacePolicy((8, 8), 4, last=16)
    # Where the likelihood is rugged: the race of more starts, the most ascents on many rows, the number of
    # them that end in the best optimum after which there are no more, and their precision in nats a row.
    rugged: RacePolicy = RacePolicy((16,), 6)
    rugged_ascents: int = 8
    rugged_again: int = 3
    rugged_tolerance: float = 1e-5
    # Passes on more rows beyond which a subsample's optimum was far from theirs.
    far_passes: int = 15
    # On more rows than these times the first subsample, many ascents are too much work.
    rugged_rows: int = 16
    # Nats a row behind the leader of a race that a run may end to be polished.
    rival: float = 0.05
    # Standard errors of the difference to the best within which an optimum of a subsample stays in the
    # running.
    deviations: float = 3.0
    # How many times the leader's gain another candidate may gain, and how many times its own last gain in a
    # race.
    reach: float = 2.0
    hope: float = 1.0
    # Passes that a rival of a leader has, or as many as the leader took.
    rival_passes: int = 12
    # Length of rows [1, u] and number of parameters beyond which fewer starts race, and how many at least.
    wide: int = 40
    many: int = 240
    fewest_starts: int = 3
    # How many times as many race first where responses are labels (Labels).
    label_starts: int = 6
    # Where ascents are quasi-Newton's, which cost little beside EM's matrices, more start from shorter races.
    many_race: RacePolicy = RacePolicy((8, 8), 3)
    many_starts: int = 6
    # Rows a parameter of the first subsample: enough; at least, if that is more than this share of all rows;
    # and for a wide search to tell anything.
    parameter_rows: float = 6.0
    least_parameter_rows: float = 2.0
    first_share: float = 0.25
    telling_rows: float = 8.0
    # Up to so many parameters ascents and jumps cost next to nothing.
    cheap: int = 64
    # Nats a row within which two ascents have ended in one optimum.
    met: float = 1e-4
    # Where all rows are few and passes cheap: the race, its starts (in units of n_init), the most races, and
    # the ascents that end in the best optimum after which there are no more. Runs that have met all count,
    # so none is dropped for another.
    small: RacePolicy = RacePolicy((24,), 8, close=-1.0)
    small_starts: int = 2
    small_waves: int = 3
    small_again: int = 3
    # Nats a row within which a second optimum says that there may be more near the best.
    cluster: float = 0.01
    # Nats a row by which an ascent must be about to end below the best for it to be given up.
    lost: float = 5e-3
    # Most jumps (in units of n_init), and how many that find nothing end them.
    small_jumps: int = 2
    patience: int = 6
    jump_passes: int = 60
    # Subsamples are copies: together with their share of the rows this bounds the memory of a fit.
    growth: int = 8
    largest_share: float = 1 / 8


@dataclass(frozen=True)
class StartsPolicy:
    """Starting models (local_estimator: The search)."""

    # Membership of a row in its cell: soft ones let a wrong cell lose its rows in the first EM passes.
    confidence: float = 0.9
    lloyd_steps: int = 5
    # Share of a cell's mass that keeps cells with fewer rows than features on the ground.
    pseudo_rows: float = 0.01
    # Rows are far, and few, beyond so many standard deviations (by the median) and up to this share of all.
    far: float = 50.0
    few: float = 0.1
    # In standard deviations of the response: what is nearer may be the rounding of a line without noise.
    nearest: float = 1e-3
    # How often every kind takes its turn with far rows apart before it does without.
    forms_apart: int = 2


@dataclass(frozen=True)
class ExpansionPolicy:
    """A partition's way from the shared start (decisions: Aggregation)."""

    # More gain nothing that the prior would not take back; nats a row.
    passes: int = 5
    tolerance: float = 1e-4
    # Nats a row by which a start must be behind another on these rows to have fewer of them, and how many.
    behind: float = 2e-3
    passes_behind: int = 2
    # How many times what is known at the start joins a sum that has no maximum, tried in turn.
    pilot_weights: tuple[float, ...] = (0.0, 1.0, 4.0, 16.0)
    # Share of its rows that a pilot's sample may do without where these have rare levels.
    most_rare_rows: float = 0.05


@dataclass(frozen=True)
class LevelsPolicy:
    """Rare levels and their effects (local_estimator: Rare levels)."""

    # Share of the rows up to which another value than the usual is rare.
    rare: float = 0.002
    # Rows that tell whether there is a usual value: one that more than this share of them has.
    looked_at: int = 2_000
    mostly: float = 0.9
    # Steps of the slope that experts share, which is one step of the identity link, and of EM from there.
    shared_steps: int = 3
    own_steps: int = 10
    # Nats in all that its rows must gain for a level to be learned again.
    gain: float = 1.0


@dataclass(frozen=True)
class AveragingPolicy:
    """The average of independent fits by information (aggregation: Without responses)."""

    # Of matching, leaving out and averaging.
    rounds: int = 8
    # Support rows where experts are compared.
    matching_rows: int = 500
    # Of more partitions, references race on so many.
    racing_partitions: int = 128
    # Partitions farther from the others are left out: in units of what their parameters and rows let expect,
    # and in deviations of chi^2.
    units: float = 3.0
    deviations: float = 6.0
    # In those units: what a partition that does not fit at all can cost.
    cap: float = 10.0


@dataclass(frozen=True)
class ChoicePolicy:
    """Candidates for the estimator of one communication step (decisions: Aggregation)."""

    # Local estimates from which the matching of independent fits starts.
    references: int = 5
    # Shared starts that the partitions answer from: optima of the pilot's sample that may be the best one.
    starts: int = 4
    # Standard errors of the difference to the best up to which they may be.
    deviations: float = 3.0
    # Of the damped and the short step from the shared start itself.
    dampings: tuple[float, float] = (0.1, 1.0)
    # Steps that are candidates from a start which all rows tell apart from the best one.
    steps_behind: tuple[str, ...] = ("Newton step", "damped step")


@dataclass(frozen=True)
class MemoryPolicy:
    """What a model remembers, and its updates (aggregation: What a model remembers)."""

    # Of more parameters a model keeps no information: 16 MB.
    most_parameters: int = 2_000
    # Expansions of the new rows, each around the model of the one before, while it gains more than so much,
    # in nats a row of all.
    passes: int = 3
    gain: float = 1e-4
    # Of the way to the maximum, where the whole of it is too far.
    shares: tuple[float, ...] = (0.5, 0.25)
    # Of the largest, the information of a direction of which rows tell nothing.
    told: float = 1e-8
    # Drift beyond chance, in its own unit and in deviations of chi^2, and in nats a new row.
    units: float = 3.0
    deviations: float = 6.0
    drift: float = 1e-3


@dataclass(frozen=True)
class RefinementPolicy:
    """Steps of refinement rounds (refinement: Poor starts)."""

    # Converged when no more is to be gained: nats a row, and in all (0.014 standard errors).
    gain_per_row: float = 1e-9
    gain: float = 1e-4
    # Nats a row: where more is to be gained, the eigenvalues' signs say little about the way.
    near: float = 3e-2
    # Where damping begins, and where it is none.
    first: float = 1e-2
    smallest: float = 1e-6
    # After a trial that falls, no other of the round being better; damping of which no step is worth a round.
    falls: float = 30.0
    largest: float = 1e9
    # Factors of the other dampings that a round looks at.
    others: tuple[float, ...] = (0.03, 0.3, 10.0)
    # The dampings that it looks at where much is left.
    far: tuple[float, ...] = (0.1, 1.0)
    # Where EM's steps are the better ones: dampings beside them, and how many times longer other ones are.
    ladder: tuple[float, ...] = (0.0, 1e-4, 1e-2, 1.0)
    longer: tuple[float, ...] = (4.0,)
    # Another point of a round is the next trial where it gains so many times what the trial does.
    better: float = 2.0
    # Share of the predicted gain under which an undamped step was too long.
    poor_share: float = 0.25
    # Of a metric in single precision, the least eigenvalue over its diagonal that is not a rounding error.
    precise: float = 1e-5
    # Nats a row short of a maximum from which on it is worth a warning.
    short: float = 1e-4


@dataclass(frozen=True)
class InferencePolicy:
    """What has a standard error (refinement: Standard errors)."""

    # Of a parameter's variance, the share that the priors' own information may make up: beyond it they say
    # more of the parameter than the rows do.
    prior_share: float = 0.5
    # Of a squared length, what collinear columns may share before they count as such.
    collinear_share: float = 1e-10
    # Standard errors a parameter, in root mean square, up to which a model is near enough to its maximum for
    # the information where it stands.
    near: float = 1.0
    # Of more parameters a model keeps standard errors, and no covariances: 32 MB of each kind.
    most_parameters: int = 2_000


@dataclass(frozen=True)
class IdentificationPolicy:
    """What the rows of a partition identify (aggregation: What a partition does not know)."""

    # Of the variance of all rows in a direction, the share up to which rows do not vary in it.
    varies: float = 1e-10
    # In standard deviations of all rows: how near a row is to a hull that holds it.
    inside: float = 1e-3
    # A feature is named where its share of an unknown direction is more than this of the largest.
    named: float = 1e-3


@dataclass(frozen=True)
class SoundnessPolicy:
    """What is said of a finished model (decisions: What a model is told of)."""

    # Standard deviations in units of the floor up to which an expert is at it.
    floors: float = 3.0
    # In standard deviations of the response: an expert's mean that varies less is one value.
    level: float = 0.01
    # In nats a row: below least squares, and within which another shared start ends close.
    worse: float = 1e-3
    rival: float = 1e-3
    # Of the response's range, beyond which a prediction outside it is far off.
    widths: float = 1.0
    # Share of the target's variance from which a column tells it exactly.
    copy: float = 1.0 - 1e-12
    # Fewer rows may differ by chance; of more the look is not cheap.
    identifier_rows: int = 50
    most_identifier_rows: int = 10_000_000


@dataclass(frozen=True)
class ReductionPolicy:
    """The reduction and its starts (aggregation: Majorization-minimization at scale)."""

    # Of the MM algorithm; the gain relative to the objective.
    max_iterations: int = 500
    tolerance: float = 1e-9
    # Of more partitions, starts race on so many.
    racing_partitions: int = 256
    # Local estimators among the starts: one in a bad optimum must not decide.
    local_starts: int = 5
    # Relative to the components' mean.
    nuisance_floor: float = 1e-10
    # Pairs grow with the square of the components: more than these merge in blocks.
    merging_block: int = 96
    lloyd_steps: int = 25
    # The middle estimator compares all pairs: of more local estimators so many compete, on as many support
    # rows as these cells allow, but no fewer.
    candidates: int = 256
    compared_cells: float = 4e9
    fewest_rows: int = 50


@dataclass(frozen=True)
class GatingPolicy:
    """The fit of a gating network to soft targets (aggregation: Majorization-minimization at scale)."""

    # Of the mean square of logits, in an objective of unit mass: slopes in standard deviations that are far
    # under 1e3 do not feel it, separable targets end at a few of these.
    penalty: float = 1e-10
    # Relative to the mean curvature; gain of an objective of unit mass; Newton steps.
    ridge: float = 1e-10
    tolerance: float = 1e-13
    max_steps: int = 200
    # Of a ridge, which shrinks after every step that rises.
    damping: DampingPolicy = DampingPolicy(1e-4, 1e-12 / 8, 8.0, good=1 / 8, poor_share=-inf, good_share=-inf)


DEFAULTS = Regularization()
PRIOR = PriorPolicy()
TAILS = TailsPolicy()
NEWTON = NewtonPolicy()
QUASI_NEWTON = QuasiNewtonPolicy()
SEARCH = SearchPolicy()
STARTS = StartsPolicy()
EXPANSION = ExpansionPolicy()
LEVELS = LevelsPolicy()
AVERAGING = AveragingPolicy()
CHOICE = ChoicePolicy()
MEMORY = MemoryPolicy()
REFINEMENT = RefinementPolicy()
INFERENCE = InferencePolicy()
IDENTIFICATION = IdentificationPolicy()
SOUNDNESS = SoundnessPolicy()
REDUCTION = ReductionPolicy()
GATING = GatingPolicy()
