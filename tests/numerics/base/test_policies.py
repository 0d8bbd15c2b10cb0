"""Every tuned number is a field of a policy, and every policy names the study that set it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from daskmoe.numerics.base import policies

DESIGN = Path(__file__).resolve().parents[3] / "docs" / "design"
POLICIES = [
    member for _, member in inspect.getmembers(policies, dataclasses.is_dataclass) if inspect.isclass(member)
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_policy_is_frozen_and_names_its_study(policy: type) -> None:
    assert policy.__dataclass_params__.frozen
    page, section = re.search(r"\((\w+): ([^)]+)\)", inspect.getdoc(policy)).groups()
    headings = re.findall(r"^## (.+)$", (DESIGN / f"{page}.md").read_text(encoding="utf-8"), flags=re.M)
    assert section in headings


def test_damping_begins_grows_and_ends() -> None:
    rule = policies.DampingPolicy()
    assert rule.after(0.0, -1.0, 1.0) == rule.first
    assert rule.after(1.0, float("nan"), 1.0) == rule.falls
    assert rule.after(1.0, 0.1, 1.0) == rule.poor
    assert rule.after(1.0, 0.5, 1.0) == 1.0
    assert rule.after(1.0, 0.9, 1.0) == rule.good
    assert rule.after(rule.smallest, 1.0, 1.0) == 0.0
