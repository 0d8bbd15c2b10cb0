"""What a caller may pass as ``random_state``."""

from __future__ import annotations

import numpy as np

from daskmoe.config import check_integer

RandomState = None | int | np.random.SeedSequence | np.random.Generator


def entropy_of(random_state: RandomState) -> int:
    """One integer that all draws follow from; fresh where ``random_state`` is None."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.SeedSequence):
        return int.from_bytes(random_state.generate_state(4).tobytes(), "little")
    if random_state is not None:
        return check_integer("random_state", random_state, 0)
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
