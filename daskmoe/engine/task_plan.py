"""What all tasks of a request share."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import Family, get_family
from daskmoe.options import FitOptions
from daskmoe.rows import RowSchema
from daskmoe.rows.contents import StoredArray


class Sends(NamedTuple):
    """What a partition sends beside its estimate and moments."""

    # Its share of the support: rows of features.
    rows: bool
    # The responses of these rows, and the lowest and the highest of all.
    responses: bool
    # The second-order expansion of its log-likelihood around its own estimate.
    information: bool


class TaskPlan(NamedTuple):
    """What all local tasks share."""

    # The store that tasks open; None where each is handed its piece of a dataset.
    source: str | None
    schema: RowSchema
    # As `FitRequest.seen` gives them.
    options: FitOptions
    # Folder of finished work.
    checkpoint: str | None
    # Of everything but rows that a result depends on; empty without a folder.
    token: str
    sends: Sends
    # Size of the pilot's sample.
    sample_rows: int
    # The variable of the rows' clusters, in a pass that asks for them.
    cluster: str | None = None
    # Of an interrupt, which ends the tasks of a job.
    job: str = ""
    # Where the rows of the store are; empty without a folder.
    stored: tuple[StoredArray, ...] = ()

    @property
    def family(self) -> Family:
        """The experts' densities, for as many classes as the target has."""
        return get_family(self.options.family, self.schema.response_size)

    @property
    def local(self) -> LocalFit:
        """How one partition is fitted."""
        return replace(self.options.local, response_size=self.schema.response_size)
