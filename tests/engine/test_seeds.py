"""The streams of random numbers: what they are is part of every answer, and each has one purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import daskmoe.engine
from daskmoe.engine.seeds import Seed, generator, sequence

# Whoever changes one of these changes the results of every seed.
KEYS = {
    Seed.PARTITION: (),
    Seed.PILOT_ROWS: (),
    Seed.GIVEN_ROWS: (),
    Seed.PILOT: (2**31,),
    Seed.SYNTHETIC_SUPPORT: (2**31 + 1,),
    Seed.GIVEN_SUPPORT: (2**31 + 2,),
    Seed.HELD_OUT: (2**31 + 3,),
}


def test_keys_are_what_they_were() -> None:
    assert {purpose: purpose.key for purpose in Seed} == KEYS


@pytest.mark.parametrize("purpose", Seed)
def test_a_part_follows_the_key(purpose: Seed) -> None:
    assert sequence(7, purpose, 3).spawn_key == (*purpose.key, 3)
    expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(*purpose.key, 3)))
    assert generator(7, purpose, 3).random() == expected.random()


def test_no_key_is_a_stream_of_the_seed_itself() -> None:
    assert generator(7, Seed.PILOT_ROWS).random() == np.random.default_rng(7).random()


def test_spawn_keys_are_spelled_in_one_module() -> None:
    folder = Path(daskmoe.engine.__file__).parent
    found = [path.name for path in sorted(folder.glob("*.py")) if "SeedSequence(" in code_of(path)]
    assert found == ["seeds.py"]


def code_of(path: Path) -> str:
    """The lines of a module without what its docstrings quote."""
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if "``" not in line)
