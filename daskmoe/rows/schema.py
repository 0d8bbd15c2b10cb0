"""The variables that make the rows of a dataset: plain data, kept with a model as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from daskmoe.numerics.base.parameters import Columns
from daskmoe.rows.codings import Atoms, Coding, Levels, Powers, coding_from


@dataclass(frozen=True)
class FeatureVariable:
    """What gives one or several feature columns: a variable, or the product of several."""

    # Name of the variable, or of the product.
    name: str
    # Its sample dimensions, in the order it has them.
    dims: tuple[str, ...]
    # Its one other dimension, if any; every position along it is a column.
    feature_dim: str | None
    # Label of each column.
    labels: tuple[str, ...]
    # Its ``units`` attribute.
    units: str | None
    # The coordinate values along `feature_dim`, column by column; None where there is no coordinate.
    keys: tuple[str, ...] | None = None
    # Where each column is along `feature_dim` of the data at hand; None if they are in order.
    positions: tuple[int, ...] | None = None
    # How columns are made of the values; None where they are the values.
    coding: Coding | None = None
    # The factors of a product; empty where it is a variable.
    parts: tuple[FeatureVariable, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether its columns are its values."""
        return self.coding is None and not self.parts

    @property
    def leaves(self) -> tuple[FeatureVariable, ...]:
        """The variables that it is of, itself where it is one."""
        return tuple(leaf for part in self.parts for leaf in part.leaves) if self.parts else (self,)

    def made_of(self) -> Any:
        """Its coding, or those of its factors, as JSON can hold it."""
        if self.parts:
            return [part.made_of() for part in self.parts]
        return {self.name: None if self.coding is None else self.coding.to_plain()}

    def first_columns(self, count: int) -> FeatureVariable:
        """The variable of its first columns alone: of powers, which gates may have fewer of than experts."""
        if count == len(self.labels):
            return self
        assert isinstance(self.coding, Powers)
        coding = replace(self.coding, last=self.coding.first + count - 1)
        return replace(self, coding=coding, labels=self.labels[:count])

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold, without what says nothing."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        coding, parts = content.pop("coding"), content.pop("parts")
        if coding is not None:
            content["coding"] = coding.to_plain()
        if parts:
            content["parts"] = [part.to_plain() for part in parts]
        return content

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Self:
        """The variable that `to_plain` gave."""
        known = {key: _as_tuple(value) for key, value in content.items()}
        if known.get("coding") is not None:
            known["coding"] = coding_from(known["coding"])
        known["parts"] = tuple(cls.from_plain(part) for part in known.get("parts", ()))
        return cls(**known)


@dataclass(frozen=True)
class RowSchema:
    """The variables that make the rows of a dataset, and the order of the feature columns."""

    # Name of the response variable.
    target: str
    # Its dimensions, in its order.
    sample_dims: tuple[str, ...]
    # The feature variables, in column order.
    variables: tuple[FeatureVariable, ...]
    # Name of the variable of row weights.
    weight: str | None = None
    # Those of the target's ``units``, ``long_name`` and ``standard_name`` that it has.
    target_attrs: dict[str, Any] = field(default_factory=dict, hash=False)
    # Variables that were no features, and why, where nobody said which are.
    left_out: dict[str, str] = field(default_factory=dict, hash=False)
    # What the weights are multiplied by.
    weight_factor: float = 1.0
    # The classes of a target that is labels, in the order of their codes; None where it is numbers.
    classes: Levels | None = None
    # Positions of the gates' and of the experts' feature columns; None for all.
    gate_columns: tuple[int, ...] | None = None
    expert_columns: tuple[int, ...] | None = None
    # Position of the column that is the offset, the last; None where there is none.
    offset_column: int | None = None
    # Values of the target at which a row is none of these: it is at an atom, which another model is of.
    atoms: tuple[float, ...] = ()
    # The target's dimension along which it has several outputs, no sample dimension, and their labels.
    output_dim: str | None = None
    outputs: tuple[str | int | float, ...] = ()

    @property
    def has_labels(self) -> bool:
        """Whether the target is labels in the data; else it is numbers there."""
        return self.classes is not None and not isinstance(self.classes, Atoms)

    @property
    def absence(self) -> str:
        """What rows are that are left out without being an error."""
        return "at an atom of the target" if self.atoms else "not there"

    @property
    def n_classes(self) -> int | None:
        """How many classes the target has; None where it is numbers."""
        return None if self.classes is None else len(self.classes.levels)

    @property
    def response_size(self) -> int | None:
        """How many classes or outputs the target has; None where it is one number."""
        return len(self.outputs) if self.output_dim is not None else self.n_classes

    @property
    def columns(self) -> Columns:
        """Which feature columns are the gates' and which the experts'."""
        return Columns(self.gate_columns, self.expert_columns, self.offset_column)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Labels of all columns but the offset."""
        return self.feature_labels[: self.offset_column]

    @property
    def offset(self) -> str | None:
        """Name of the variable that is the offset, if there is one."""
        return None if self.offset_column is None else self.variables[-1].name

    @property
    def gate_labels(self) -> tuple[str, ...]:
        """Labels of the gates' features."""
        return _at(self.feature_labels, self.gate_columns)

    @property
    def expert_labels(self) -> tuple[str, ...]:
        """Labels of the experts' features."""
        return _at(self.feature_labels, self.expert_columns)

    @property
    def row_dim(self) -> str | None:
        """The sample dimension, if there is one only."""
        return self.sample_dims[0] if len(self.sample_dims) == 1 else None

    @property
    def feature_labels(self) -> tuple[str, ...]:
        """Label of every feature column, in column order."""
        return tuple(label for variable in self.variables for label in variable.labels)

    @property
    def sources(self) -> dict[str, str | None]:
        """The variables that columns are made of, in order -> the feature dimension of each, if any."""
        return {leaf.name: leaf.feature_dim for variable in self.variables for leaf in variable.leaves}

    @property
    def codings(self) -> dict[str, str]:
        """How the columns of each variable are made that are not its values, as text."""
        return {
            ", ".join(variable.labels): json.dumps(variable.made_of(), sort_keys=True)
            for variable in self.variables
            # A yes or no is its values, whatever dtype it has.
            if not variable.is_plain and variable.labels != (variable.name,)
        }

    def can_mask(self, variable: FeatureVariable) -> bool:
        """Whether a variable can say that a row is not there: a feature with all sample dimensions.

        The offset cannot: the area of a cell, or how long it was watched, is known over the sea too.
        """
        if self.offset_column is not None and variable == self.variables[-1]:
            return False
        return set(self.sample_dims) <= set(variable.dims)

    def used(self, *, with_target: bool = True) -> list[str]:
        """Names of all variables that rows are made of."""
        names = [*self.sources]
        names += [self.target] if with_target else []
        names += [self.weight] if self.weight is not None else []
        return [*dict.fromkeys(names)]

    def of_presence(self) -> RowSchema:
        """All rows, classed by which atom the target is at, if any, with the features of the gates."""
        columns, kept = iter(range(len(self.feature_names))), []
        for variable in self.variables if self.offset_column is None else self.variables[:-1]:
            of_gates = [next(columns) in self.gate_positions for _ in variable.labels]
            if any(of_gates):
                kept.append(variable.first_columns(sum(of_gates)))
        return replace(
            self,
            variables=tuple(kept),
            classes=Atoms.at(self.atoms),
            atoms=(),
            gate_columns=None,
            expert_columns=None,
            offset_column=None,
        )

    @property
    def gate_positions(self) -> tuple[int, ...]:
        """Positions of the gates' feature columns, in column order."""
        everything = tuple(range(len(self.feature_names)))
        return everything if self.gate_columns is None else tuple(sorted(self.gate_columns))

    def identity(self) -> str:
        """What rows depend on, as text."""
        return replace(self, left_out={}).to_json()

    def to_json(self) -> str:
        """The schema as a JSON string, for the attributes of a saved model."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content["variables"] = [variable.to_plain() for variable in self.variables]
        content["classes"] = None if self.classes is None else self.classes.to_plain()
        for name in ("gate_columns", "expert_columns", "offset_column", "output_dim"):
            if content[name] is None:
                # What earlier versions wrote.
                del content[name]
        for name in ("atoms", "outputs"):
            if not content[name]:
                del content[name]
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> RowSchema:
        """The schema that `to_json` wrote."""
        content = json.loads(text)
        variables = tuple(FeatureVariable.from_plain(variable) for variable in content.pop("variables"))
        # Models of version 0.1.0 know no classes.
        classes = content.pop("classes", None)
        known = {key: _as_tuple(value) for key, value in content.items()}
        return cls(variables=variables, classes=None if classes is None else _levels_from(classes), **known)


def _levels_from(content: dict[str, Any]) -> Levels:
    coding = coding_from(content)
    assert isinstance(coding, Levels)
    return coding


def _at(labels: tuple[str, ...], columns: tuple[int, ...] | None) -> tuple[str, ...]:
    return labels if columns is None else tuple(labels[column] for column in columns)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
