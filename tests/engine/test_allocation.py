"""Arrays of a task's passes cost the system no pages, on workers that are told to keep none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

COUNT = """
import json, resource
import numpy as np
from daskmoe.engine.allocation import reused_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        np.ones(2**17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [faults()]
with reused_memory():
    with reused_memory():
        faults()
    found.append(faults())
print(json.dumps([*found, faults()]))
"""


def count(environment: dict[str, str]) -> list[int]:
    """Pages that the system gave for a hundred arrays of a megabyte before, inside and after."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env=clean | environment, check=True, capture_output=True, timeout=60
    )
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is set")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_MMAP_THRESHOLD_": "131072"}])
def test_memory_is_kept_inside_and_given_back_after(environment: dict[str, str]) -> None:
    before, inside, after = count({"MALLOC_TRIM_THRESHOLD_": "65536", **environment})
    assert inside < 0.1 * before
    assert after > 0.5 * before


def test_without_a_word_of_the_environment_nothing_is_set() -> None:
    _, inside, after = count({})
    assert max(inside, after) < 5_000
