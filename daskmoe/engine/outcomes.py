"""How a partition ended: an outcome and a reason, of which texts are made where somebody reads them."""

from __future__ import annotations

from typing import NamedTuple

from daskmoe.numerics.base.parameters import LocalEstimate
from daskmoe.rows.names import Outcome

__all__ = ["Ending", "Outcome", "ending_of"]


class Ending(NamedTuple):
    """How a partition ended."""

    outcome: Outcome
    # Of an outcome other than fitted.
    reason: str = ""
    # Whether its result comes from a checkpoint.
    kept: bool = False
    # Why its result could not be kept in a checkpoint.
    unkept: str = ""

    @property
    def fitted(self) -> bool:
        """Whether there is an estimate."""
        return self.outcome not in (Outcome.LEFT_OUT, Outcome.EMPTY)

    @property
    def status(self) -> str:
        """What the diagnostics say of it to a reader."""
        if not self.fitted:
            return f"{self.outcome}: {self.reason}"
        return str(self.outcome) if self.outcome is Outcome.NOT_CONVERGED else "ok"


def ending_of(estimate: LocalEstimate, *, from_pilot: bool) -> Ending:
    """The ending of a partition that has an estimate, its own or one from the shared start."""
    if estimate.converged:
        return Ending(Outcome.FITTED)
    outcome = Outcome.OUT_OF_PASSES if from_pilot else Outcome.NOT_CONVERGED
    return Ending(outcome, f"{estimate.passes} passes")
