"""A fitted mixture of experts: what it says about data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from daskmoe.model.assigning import Assigning
from daskmoe.model.judging import Judging
from daskmoe.model.named import NamedExperts
from daskmoe.model.predicting import Predicting


class MixtureOfExperts(NamedExperts, Predicting, Assigning, Judging):
    """A mixture of experts f(y|x) = sum_k pi_k(x) phi_k(y|x) with labelled parameters.

    Made by `daskmoe.fit` and its siblings, or `daskmoe.open_model`. All methods that take ``data`` want it
    labelled as in the fit, as an `xr.Dataset` or the path or URL of a Zarr store; features are matched by
    label. Lazy data give lazy results with the target's chunks, data in memory give results in memory. Rows
    with a missing or infinite input give NaN.

    Parameters
    ----------
    params : xr.Dataset
        ``gate_intercept(expert)``, ``gate_coef(expert, feature)``, ``intercept(expert)``,
        ``coef(expert, feature)``, ``variance(expert)``; of a target that is labels
        ``intercept(expert, class)`` and ``coef(expert, class, feature)``, zero for the first class; of a
        target with several outputs ``intercept(expert, output)``, ``coef(expert, output, feature)`` and
        ``variance(expert, output)``.
    diagnostics, local_estimates : xr.Dataset or None
    family : str
        Name of the experts' density.
    rows : RowSchema
        What a row is.
    options : mapping
        Options of the fit; JSON can hold them.
    weight : float, optional
        Sum of the row weights of the fit; by default as its diagnostics say.
    information : xr.Dataset, optional
        What the rows say of the parameters, as `daskmoe.open_model` finds it.

    Raises
    ------
    SchemaError
        If a variable of ``params`` is missing or does not fit ``rows``.

    References
    ----------
    arXiv:2312.09877, equation 1.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(500, n_features=3, n_experts=2, chunks=100, random_state=0)
    >>> model = daskmoe.fit(data, "y", n_experts=2, random_state=0)
    >>> model
    <MixtureOfExperts: 2 gaussian experts of 'y' given 3 features>
    >>> model.params["coef"].dims
    ('expert', 'feature')
    >>> model.predict(data).chunksizes["row"]  # lazy, as the data are
    (100, 100, 100, 100, 100)
    """

    # What draws models, from `draw_with`.
    _pictures: ClassVar[Callable[[Any], Any] | None] = None

    @property
    def plot(self) -> Any:
        """Pictures of the model, with matplotlib: see `daskmoe.plotting.Pictures`."""
        return pictures_of(self)


def draw_with(pictures: Callable[[Any], Any]) -> None:
    """Let ``model.plot`` give ``pictures(model)``: a room above this one hands them down."""
    MixtureOfExperts._pictures = staticmethod(pictures)


def pictures_of(model: Any) -> Any:
    """What draws a model, or one beside atoms."""
    pictures = MixtureOfExperts._pictures
    if pictures is None:
        raise AttributeError("plot: expected daskmoe.plotting to be imported, as by import daskmoe.")
    return pictures(model)
