"""What a finished fit has to say on the client: workers log for themselves, elsewhere."""

from __future__ import annotations

import logging
from typing import Final

import xarray as xr

from daskmoe.model import MixtureOfExperts
from daskmoe.schema import PARTITION

logger = logging.getLogger(__name__)

_NAMED: Final = 5


def report_fit(model: MixtureOfExperts) -> None:
    """Log what a fit left out.

    Parameters
    ----------
    model : MixtureOfExperts
        As computed; a lazy fit is reported by whoever computes it.
    """
    found = model.diagnostics
    if found is None:
        return
    if "dropped_rows" in found:
        _report_rows(found, skipped=model.options.get("on_error") == "skip")
    reasons = [f"{label} ({status})" for label, status in left_out(model).items()]
    if reasons:
        more = f"; and {len(reasons) - _NAMED} more, see diagnostics['status']" if reasons[_NAMED:] else ""
        logger.warning(
            "%d of %d partitions were left out: %s%s",
            len(reasons), found.sizes[PARTITION], "; ".join(reasons[:_NAMED]), more,
        )  # fmt: skip


def left_out(model: MixtureOfExperts) -> dict[str, str]:
    """Labels of the partitions that a fit left out, and why."""
    found = model.diagnostics
    if found is None or "status" not in found:
        return {}
    statuses = zip(found[PARTITION].values, found["status"].values, strict=True)
    return {str(label): str(status) for label, status in statuses if str(status).startswith("left out")}


def _report_rows(found: xr.Dataset, *, skipped: bool) -> None:
    dropped, used = (int(found[name].sum()) for name in ("dropped_rows", "rows"))
    if not dropped:
        return
    if skipped:
        logger.warning("%d of %d rows were dropped: a missing value or no weight", dropped, dropped + used)
    else:
        logger.info("%d of %d rows have no weight", dropped, dropped + used)
