"""One seeded generator a test."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with the same stream in every run."""
    return np.random.default_rng(20240131)
