"""Every stream of random numbers that an engine draws from, so that no two purposes share one unknowingly."""

from __future__ import annotations

from enum import Enum

import numpy as np


class Seed(Enum):
    """What is drawn, and the start of its spawn key under the seed of a fit.

    Keys may be followed by the number of a part. Partition m has the key (m,) itself, which is why the others
    begin where no partition can be.
    """

    PARTITION = "a partition's starts and its share of the support", ()
    PILOT_ROWS = "where the runs of the pilot's sample are", ()
    GIVEN_ROWS = "which complete rows of a caller's support are used", ()
    PILOT = "which rows of the sample that was read are used, and the pilot's starts", (2**31,)
    SYNTHETIC_SUPPORT = "a support made of the partitions' moments", (2**31 + 1,)
    HELD_OUT = "which partitions are held out of a comparison", (2**31 + 3,)
    GIVEN_SUPPORT = "where the runs of a caller's support are", (2**31 + 2,)

    def __init__(self, purpose: str, key: tuple[int, ...]) -> None:
        self.purpose = purpose
        self.key = key


def sequence(seed: int, purpose: Seed, *part: int) -> np.random.SeedSequence:
    """The seeds of a purpose, or of a part of it."""
    return np.random.SeedSequence(seed, spawn_key=(*purpose.key, *part))


def generator(seed: int, purpose: Seed, *part: int) -> np.random.Generator:
    """A generator of `sequence`."""
    return np.random.default_rng(sequence(seed, purpose, *part))
