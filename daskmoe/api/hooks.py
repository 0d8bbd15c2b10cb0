"""What the verbs have the engine's driver do with results: label them, and say how it went."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from daskmoe.api.labelling import label_fit, label_refinement
from daskmoe.api.reporting import report_change, report_data, report_fit, report_refinement
from daskmoe.engine import Hooks
from daskmoe.model import MixtureOfExperts

HOOKS: Final[Hooks[MixtureOfExperts]] = Hooks(
    label=label_fit,
    start=attrgetter("parameters"),
    refined=label_refinement,
    report=report_fit,
    report_rounds=report_refinement,
    report_data=report_data,
    report_change=report_change,
)
