"""`sweep_checkpoint`: the entries of a checkpoint that no run uses any more."""

from __future__ import annotations

import math
import os
from numbers import Real
from pathlib import Path

from daskmoe.api.caller import short_errors
from daskmoe.engine.sweeping import Swept, sweep_folder
from daskmoe.errors import InvalidOptionError, StoreError
from daskmoe.rows.locations import is_url


@short_errors
def sweep_checkpoint(
    checkpoint: str | os.PathLike[str], *, unused_days: float, dry_run: bool = False
) -> Swept:
    """Remove entries of a checkpoint that no run has used for some days.

    A folder that serves a growing store gathers shared starts, scores and fits of which no run asks any more.
    Runs mark what they use. Jobs may use the folder meanwhile: at most they do again what was removed.

    Parameters
    ----------
    checkpoint : path
        A folder of this machine, as ``checkpoint`` in `fit`. Files in it that are no entries stay.
    unused_days : float
        Days since an entry was last used, at least; longer than runs last and than they are apart.
    dry_run : bool
        Whether only to count what would be removed.

    Returns
    -------
    Swept
        ``removed`` and ``left`` count entries, ``removed_bytes`` and ``left_bytes`` their bytes.

    Raises
    ------
    InvalidOptionError
        If ``unused_days`` is no positive number.
    StoreError
        If the folder is not there, cannot be written, or is a URL, where reading marks nothing.

    Examples
    --------
    >>> import daskmoe
    >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, chunks=500, random_state=0)
    >>> model = daskmoe.fit(data, "y", n_experts=2, random_state=0, checkpoint="kept")
    >>> daskmoe.sweep_checkpoint("kept", unused_days=30).removed
    0
    """
    if isinstance(unused_days, bool) or not isinstance(unused_days, Real) or not 0 < unused_days < math.inf:
        raise InvalidOptionError(f"unused_days: expected a positive number of days, got {unused_days!r}.")
    folder = os.fspath(checkpoint)
    if is_url(folder):
        raise StoreError(
            f"checkpoint: expected a folder of this machine, got {folder!r}, where files do not tell when "
            "they were last read. Begin another folder now and then, and remove the old one."
        )
    try:
        return sweep_folder(Path(folder), float(unused_days), dry_run=dry_run)
    except OSError as error:
        raise StoreError(
            f"checkpoint: expected a folder that is there and can be written, got {folder!r}: {error}. Name "
            "the folder of the fits (checkpoint=...)."
        ) from error
