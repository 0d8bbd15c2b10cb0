"""What a caller may ask for: every option of `fit` once, with its check, its help and where it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from daskmoe.errors import InvalidOptionError
from daskmoe.features import Term, parse_features
from daskmoe.numerics.base.policies import LocalFit, Regularization
from daskmoe.numerics.combine.registry import AGGREGATORS
from daskmoe.numerics.families import get_family

# The registry of `numerics.combine`, spelled out for type checkers.
Method = Literal["reduction", "whole", "greedy", "weighted", "middle", "aligned"]
Aggregation = Literal["auto", Method]
# What may leave a partition for the support.
Support = Literal["labelled", "features", "synthetic"]
OnError = Literal["raise", "skip"]
WeightKind = Literal["frequency", "importance"]
# What becomes of chunks that are not in the store.
OnMissingChunks = Literal["raise", "warn", "fill"]
Rounds = int | Literal["converged"]
# A function is called with every `daskmoe.engine.displays.Status`.
Progress = Literal["auto"] | bool | Callable[[Any], object]
RandomState = None | int | np.random.SeedSequence | np.random.Generator

# One for all outputs, one an output in the order of data, or by the outputs' labels.
Scales = float | Sequence[float] | Mapping[Any, float]

METHODS: tuple[str, ...] = get_args(Method)
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)
SUPPORTS: tuple[str, ...] = get_args(Support)
ON_ERROR: tuple[str, ...] = get_args(OnError)
WEIGHT_KINDS: tuple[str, ...] = get_args(WeightKind)
MISSING_CHUNKS: tuple[str, ...] = get_args(OnMissingChunks)


def check_integer(name: str, value: Any, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``; `InvalidOptionError` names the option otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InvalidOptionError(f"{name}: expected an integer of at least {minimum}, got {value!r}.")
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``; `InvalidOptionError` lists them otherwise."""
    if value not in choices:
        raise InvalidOptionError(f"{name}: expected one of {list(choices)}, got {value!r}.")
    return str(value)


def check_share(name: str, value: Any) -> float:
    """``value`` as a number between 0 and 1; `InvalidOptionError` names the option otherwise."""
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise InvalidOptionError(f"{name}: expected a number strictly between 0 and 1, got {value!r}.")
    return float(value)


def check_rounds(name: str, value: Any, minimum: int) -> Rounds:
    """``value`` as a number of rounds or ``"converged"``; `InvalidOptionError` for anything else."""
    if isinstance(value, str) and value != "converged":
        raise InvalidOptionError(f"{name}: expected a number of rounds or 'converged', got {value!r}.")
    return "converged" if value == "converged" else check_integer(name, value, minimum)


def entropy_of(random_state: RandomState) -> int:
    """One integer that all draws follow from; fresh where ``random_state`` is None."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.SeedSequence):
        return int.from_bytes(random_state.generate_state(4).tobytes(), "little")
    if random_state is not None:
        return check_integer("random_state", random_state, 0)
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])


class AtLeast(NamedTuple):
    """The check of an integer; None passes where it is the default."""

    minimum: int
    optional: bool = False

    def __call__(self, name: str, value: Any) -> int | None:
        """The value as an int that JSON can hold, of whatever kind of integer it is."""
        return None if value is None and self.optional else check_integer(name, value, self.minimum)


class Number(NamedTuple):
    """The check of a finite number above zero; None passes where it is the default."""

    optional: bool = False

    def __call__(self, name: str, value: Any) -> float | None:
        """The value as a float."""
        if value is None and self.optional:
            return None
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else np.nan
        if not np.isfinite(number) or number <= 0:
            raise InvalidOptionError(f"{name}: expected a finite number above 0, got {value!r}.")
        return number


def _scales(name: str, value: Any) -> float | tuple[float, ...] | dict[Any, float] | None:
    """One number, one an output in their order, or one by the label of each."""
    number = Number()
    if isinstance(value, Mapping):
        return {label: number(f"{name}[{label!r}]", each) for label, each in value.items()}  # type: ignore[misc]
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(number(f"{name}[{at}]", each) for at, each in enumerate(value))  # type: ignore[misc]
    return Number(optional=True)(name, value)


class OneOf(NamedTuple):
    """The check of a word."""

    choices: tuple[str, ...]

    def __call__(self, name: str, value: Any) -> str:
        """The word itself."""
        return check_choice(name, value, self.choices)


def _any(name: str, value: Any) -> Any:
    return value


def _feature_names(name: str, value: Any) -> Any:
    if isinstance(value, xr.DataArray | xr.Variable | xr.Dataset):
        got = type(value).__name__
        raise InvalidOptionError(f"{name}: expected names of variables, got an xarray {got}.")
    if value is None or isinstance(value, str | Term):
        return value
    given = list(value)
    if strange := [each for each in given if not isinstance(each, str | Term)]:
        raise InvalidOptionError(
            f"{name}: expected names of variables, which are text, or terms of daskmoe.features, got "
            f"{strange[0]!r}. Where names are none: "
            "data.rename({name: str(name) for name in data.variables})."
        )
    return given


def _name(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise InvalidOptionError(f"{name}: expected the name of a variable, got {type(value).__name__}.")
    return value


def _categories(name: str, value: Any) -> Any:
    if value is None:
        return None
    levels = dict(value) if isinstance(value, Mapping) else {"": ""}
    for variable, given in levels.items():
        if not isinstance(variable, str) or isinstance(given, str | bytes):
            raise InvalidOptionError(
                f"{name}: expected levels by variable, as {{'wind': ['N', 'E', 'S', 'W']}}, got {value!r}."
            )
    return levels


def _atoms(name: str, value: Any) -> tuple[float, ...] | str | None:
    """Finite numbers, sorted; None for none."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    given = value if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
    if not all(isinstance(each, Real) and np.isfinite(float(each)) for each in given):
        raise InvalidOptionError(f"{name}: expected numbers, as [0.0], or 'auto', got {value!r}.")
    return tuple(sorted({float(each) for each in given})) or None


def _family(name: str, value: Any) -> Any:
    get_family(value)
    return value


def _support(name: str, value: Any) -> Any:
    if isinstance(value, str) and value not in SUPPORTS and "://" not in value and not os.path.exists(value):
        raise InvalidOptionError(
            f"{name}: expected one of {list(SUPPORTS)}, a dataset or the path of a Zarr store, got {value!r}."
        )
    return value


def _success(name: str, value: Any) -> int | float:
    """A number of partitions, or a share of them, which is no integer."""
    if isinstance(value, Integral):
        return check_integer(name, value, 1)
    if not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise InvalidOptionError(
            f"{name}: expected a number of partitions, as 10, or a share of them, as 0.9, got {value!r}."
        )
    return float(value)


def _count_or_share(text: str) -> int | float | str:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def _folder(name: str, value: Any) -> str | None:
    """An absolute path, as tasks run in folders of their own, or a URL."""
    if value is None:
        return None
    path: str = os.fspath(value)
    if "://" in path:
        return path
    if os.path.exists(path) and not os.path.isdir(path):
        raise InvalidOptionError(f"{name}: expected a folder, got the file {path!r}.")
    return os.path.abspath(path)


def _progress(name: str, value: Any) -> Any:
    if value not in ("auto", True, False) and not callable(value):
        raise InvalidOptionError(
            f"{name}: expected 'auto', False for silence or a function of a status, got {value!r}."
        )
    return value


def _yes_or_no(text: str) -> str | bool:
    return {"no": False, "false": False, "yes": True, "true": True}.get(text.lower(), text)


def _number_or_text(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _listed(text: str) -> list[str | Term]:
    return parse_features(text) if text else []


def _values_listed(text: str) -> list[float] | str:
    """Of ``0,100``: numbers; other words are left to the check."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def _scales_listed(text: str) -> float | list[float]:
    """Of ``0.1`` the number, of ``0.1,5`` one an output."""
    numbers = [float(part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers


def _levels_listed(text: str) -> dict[str, list[str] | None] | None:
    """Of ``wind=N|E|S|W,month``: levels by variable, None for those that are in the data."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return {name: levels.split("|") if given else None for name, given, levels in pairs} or None


def _as_listed(value: Any) -> Any:
    """Numbers as JSON has them; words and None as they are."""
    return [*value] if isinstance(value, tuple) else value


def _word_or_given(value: Any) -> str:
    return value if isinstance(value, str) and value in SUPPORTS else "given"


class Flag(NamedTuple):
    """An option on the command line, where its name and its check do not say it all."""

    # Empty for the option's own.
    name: str = ""
    metavar: str = ""
    parse: Callable[[str], Any] = str
    # What happens without it, where the default is None.
    default: str = ""


class Option(NamedTuple):
    """What is known of an option beside its type and default."""

    help: str
    # From name and value to the value that the field holds; `InvalidOptionError` for one it cannot have.
    check: Callable[[str, Any], Any] = _any
    # Whether tasks see it. What they see names them and their checkpoints, so that the result of one value
    # is never taken for that of another.
    token: bool = True
    # Whether a model remembers it, or as what; JSON can hold it.
    record: bool | Callable[[Any], Any] = True
    # None keeps it off the command line.
    flag: Flag | None = Flag()
    # Whether it is about joining local fits, and says nothing of a fit to all rows at once.
    joins: bool = False


def option(default: Any, help: str, **known: Any) -> Any:
    """A field that is an option: its default, MISSING for none, and what makes its `Option`."""
    return field(default=default, metadata={"option": Option(help, **known)})


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of `fit`, which says at length what they mean; `InvalidOptionError` for what cannot be.

    Fields are as checked: integers are plain, ``n_local_experts`` is a number, ``random_state`` is the one
    that all draws follow from, ``checkpoint`` is an absolute path.
    """

    features: str | Term | Sequence[str | Term] | None = option(
        None,
        "Variables to predict from, and terms of them, as powers(x,3).",
        check=_feature_names,
        token=False,
        record=False,
        flag=Flag(metavar="A,B,...", parse=_listed, default="all that fit"),
    )
    gate_features: str | Term | Sequence[str | Term] | None = option(
        None,
        "Those of the gates alone, if other than the experts'; empty for constant gates.",
        check=_feature_names,
        token=False,
        record=False,
        flag=Flag(metavar="A,B,...", parse=_listed, default="the features"),
    )
    offset: str | None = option(
        None,
        "Variable that is a part of every linear predictor, as the logarithm of an exposure.",
        check=_name,
        token=False,
        record=False,
        flag=Flag(metavar="NAME"),
    )
    categories: Mapping[str, Sequence[Any] | None] | None = option(
        None,
        "Levels of features, the reference first; those in the data for a name alone.",
        check=_categories,
        token=False,
        record=False,
        flag=Flag(metavar="A=X|Y|Z,B,...", parse=_levels_listed, default="those in the data"),
    )
    n_experts: int = option(MISSING, "Experts of the model.", check=AtLeast(1), token=False)
    family: str = option("gaussian", "Density of the experts.", check=_family, record=False)
    atoms: Sequence[float] | str | None = option(
        None,
        "Values that the target repeats, each with a probability of its own; auto finds them.",
        check=_atoms,
        # Rows are others with them, and these name tasks.
        token=False,
        record=_as_listed,
        flag=Flag(metavar="VALUE,...|auto", parse=_values_listed),
    )
    output_dim: str | None = option(
        None,
        "Dimension of the target along which it has several outputs.",
        check=_name,
        # Rows are others with it, and these name tasks.
        token=False,
        record=False,
        flag=Flag(metavar="NAME"),
    )
    partitions: int | str | None = option(
        None,
        "Number of row ranges, or a coordinate with one partition a value.",
        token=False,
        flag=Flag(metavar="NUMBER|NAME", parse=_number_or_text, default="the target's chunks"),
    )
    aggregation: Aggregation = option(
        "auto", "Estimator of the model.", check=OneOf(AGGREGATIONS), token=False, joins=True
    )
    support: Support | str | os.PathLike[str] | xr.Dataset | Store = option(
        "labelled",
        "What may leave a partition: rows with responses, rows of features, none; or a store of such rows.",
        check=_support,
        token=False,
        record=_word_or_given,
        joins=True,
        flag=Flag(metavar="labelled|features|synthetic|STORE"),
    )
    support_size: int = option(2000, "Rows of the support sample.", check=AtLeast(1))
    n_local_experts: int | None = option(
        None, "Experts of local fits.", check=AtLeast(1, True), flag=Flag(default="as the model"), joins=True
    )
    refine: Rounds = option(
        0,
        "Most rounds of refinement over all partitions, or as many as it takes.",
        check=partial(check_rounds, minimum=0),
        token=False,
        joins=True,
        flag=Flag(metavar="ROUNDS|converged", parse=_number_or_text),
    )
    prior_strength: float = option(
        1.0,
        "Factor of the weak priors; less goes to maximum likelihood.",
        check=Number(),
        flag=Flag(metavar="NUMBER", parse=float),
    )
    min_scale: Scales | None = option(
        None,
        "Least standard deviation of an expert, in the target's units; one for all outputs or each.",
        check=_scales,
        record=_as_listed,
        flag=Flag(metavar="NUMBER,...", parse=_scales_listed, default="0.0015 of the target's"),
    )
    random_state: RandomState = option(
        None, "Seed of all randomness.", record=str, flag=Flag("seed", "INTEGER", int)
    )
    checkpoint: str | os.PathLike[str] | None = option(
        None,
        "Folder or URL that keeps finished work, known by its rows.",
        check=_folder,
        token=False,
        record=False,
        flag=Flag(metavar="PATH"),
    )
    on_error: OnError = option("raise", "What bad rows and partitions do.", check=OneOf(ON_ERROR))
    min_success: int | float = option(
        1,
        "Partitions that must be fitted, or their share, as 0.9.",
        check=_success,
        token=False,
        joins=True,
        flag=Flag(metavar="NUMBER|SHARE", parse=_count_or_share),
    )
    missing_chunks: OnMissingChunks = option(
        "warn",
        "What chunks do that were never written.",
        check=OneOf(MISSING_CHUNKS),
        token=False,
        record=False,
    )
    sample_weight: str | None = option(
        None, "Variable of row weights.", token=False, record=False, flag=Flag(metavar="NAME")
    )
    weight_kind: WeightKind = option(
        "frequency",
        "What a weight counts: repeated rows, or importance among as many rows as there are.",
        check=OneOf(WEIGHT_KINDS),
        token=False,
    )
    progress: Progress = option(
        "auto",
        "How far the job is, on stderr; or nothing.",
        check=_progress,
        token=False,
        record=False,
        flag=Flag(metavar="auto|no", parse=_yes_or_no),
    )
    n_init: int = option(12, "Starts of a local fit.", check=AtLeast(1))
    start_rows: int = option(2000, "Rows that the starts race on.", check=AtLeast(10))
    effort: float = option(
        1.0,
        "Factor of starts and jumps of a search.",
        check=Number(),
        flag=Flag(metavar="NUMBER", parse=float),
    )

    def __post_init__(self) -> None:
        for name, known in self.known().items():
            self._set(name, known.check(name, getattr(self, name)))
        if self.n_local_experts is None:
            self._set("n_local_experts", self.n_experts)
        # A rerun could not repeat a fresh one and would find no checkpoint.
        kept = self.random_state is None and self.checkpoint is not None
        self._set("random_state", entropy_of(0 if kept else self.random_state))
        if self.start_rows < self.local.n_experts:
            raise InvalidOptionError(
                f"start_rows: expected at least the {self.local.n_experts} experts, got {self.start_rows}."
            )
        family = get_family(self.family)
        if self.atoms is not None and (family.discrete or family.nominal):
            raise InvalidOptionError(
                f"atoms: expected none with family={self.family!r}, every value of which has mass already, "
                f"got {self.atoms!r}. Leave them out, or use a family of densities, as 'gamma'."
            )
        if self.output_dim is not None and (self.atoms is not None or not family.takes_outputs):
            raise InvalidOptionError(
                "output_dim: expected family='gaussian' without atoms, whose experts alone may have several "
                f"outputs, got family={self.family!r} and atoms={self.atoms!r}. Fit the outputs one by one."
            )
        if self.refine and self.aggregation != "auto" and AGGREGATORS[self.aggregation].nested:
            raise InvalidOptionError(
                f"refine: expected 0 with aggregation={self.aggregation!r}, whose gates are nested."
            )

    @classmethod
    def known(cls) -> Mapping[str, Option]:
        """Every option by name."""
        return {each.name: each.metadata["option"] for each in fields(cls)}

    def _set(self, name: str, value: Any) -> None:
        # A frozen dataclass has no other way to hold a value as checked.
        object.__setattr__(self, name, value)

    @property
    def local(self) -> LocalFit:
        """How one partition is fitted."""
        size = self.n_experts if self.n_local_experts is None else self.n_local_experts
        return LocalFit(
            n_experts=size,
            family=self.family,
            n_init=self.n_init,
            start_rows=self.start_rows,
            effort=self.effort,
            regularization=self.regularization,
        )

    @property
    def regularization(self) -> Regularization:
        """What is said of the penalties."""
        # Numbers by label become those of outputs in order before any rows are fitted (`plan_request`).
        scales = None if isinstance(self.min_scale, Mapping) else self.min_scale
        scales = tuple(scales) if isinstance(scales, Sequence) else scales
        return Regularization(self.prior_strength, scales)

    @property
    def seed(self) -> int:
        """The integer that all draws follow from."""
        assert isinstance(self.random_state, int)
        return self.random_state

    @property
    def most_rounds(self) -> int | None:
        """Most rounds of refinement; None for as many as it takes."""
        return None if self.refine == "converged" else self.refine

    def in_tasks(self) -> Self:
        """What tasks see, and so what names them: the other options at their defaults."""
        unseen = [each for each in fields(self) if not each.metadata["option"].token]
        defaults: dict[str, Any] = {each.name: each.default for each in unseen}
        # The one without a default.
        return replace(self, **(defaults | {"n_experts": self.local.n_experts}))

    def recorded(self) -> dict[str, Any]:
        """What a model remembers; JSON can hold it."""
        kept = {name: known.record for name, known in self.known().items() if known.record}
        values = {name: getattr(self, name) for name in kept}
        return {name: kind(values[name]) if callable(kind) else values[name] for name, kind in kept.items()}
