"""The pictures of a model, as its ``plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from daskmoe.model import MixtureOfExperts, MixtureWithAtoms
from daskmoe.plotting.along import draw_experts, draw_gates
from daskmoe.plotting.ascent import draw_convergence
from daskmoe.plotting.checks import draw_calibration, draw_residuals
from daskmoe.plotting.drift import draw_drift
from daskmoe.plotting.estimates import draw_coefficients, draw_partitions, draw_transport_plan
from daskmoe.plotting.places import draw_ruling_expert
from daskmoe.plotting.shown import Shown
from daskmoe.rows import Data

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Pictures:
    """Pictures of a model, with matplotlib: ``model.plot.experts(data, "wind")``.

    Each takes ``ax``, matplotlib axes to draw on, or makes a figure, and returns the axes. Those that look at
    data take them first; they show some 20,000 rows, in runs from all over the data, or less.

    Atoms are experts with a mass at one value, behind the others; how their gates were fitted,
    ``model.atom_gates.plot`` shows. Pictures of ``model.experts.plot`` are of the rows at no atom.

    Parameters
    ----------
    model : MixtureOfExperts or MixtureWithAtoms
    """

    def __init__(self, model: MixtureOfExperts | MixtureWithAtoms) -> None:
        self._model = model
        self._shown = Shown(model)

    def __repr__(self) -> str:
        pictures = [name for name in dir(type(self)) if not name.startswith("_")]
        return f"<{type(self).__name__} of {self._model!r}: {', '.join(pictures)}>"

    def experts(
        self,
        data: Data,
        feature: str | None = None,
        *,
        output: str | float | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """The fits of the experts along a feature, over the data's density.

        Other features are at their means over the rows that are an expert's own, or most frequent levels.
        A line is as wide as its gate is open to the rows there; dotted is the mixture's mean over them. Of a
        target that is labels they are the probabilities of the last class.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        feature : str, optional
            A variable, or a column of one that has several; by default the first feature.
        output : str or number, optional
            Of a target of several outputs the one that is drawn, by label or else by position.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidOptionError
            If ``feature`` is none, or of several outputs ``output`` is not one.
        ImportError
            As all pictures: if matplotlib is not installed.
        """
        return draw_experts(Shown.of(self._model, output), data, feature, ax)

    def gates(
        self, data: Data, feature: str | None = None, other: str | None = None, *, ax: Axes | None = None
    ) -> Axes:
        """The gating probabilities along a feature, or the ruling expert along two.

        They are averages over the rows near each value. Of two features, colours are the paler the less
        certain it is which expert rules; where there are no rows there is no colour.

        Parameters
        ----------
        data : xr.Dataset, str or path
            The target need not be there.
        feature, other : str, optional
            As in `experts`; by default one feature, the first.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidOptionError
            If ``feature`` or ``other`` is none, or two are asked for and one has levels.
        """
        return draw_gates(self._shown, data, feature, other, ax)

    def ruling_expert(
        self, data: Data, *, by: Literal["gate", "responsibility"] = "gate", ax: Axes | None = None
    ) -> Axes:
        """The expert that rules at each place of gridded data, on average over the other dimensions.

        Places are the two dimensions that are called or described as longitude and latitude or as x and y,
        else the last two. Colours are the paler the less certain it is which expert rules.

        Parameters
        ----------
        data : xr.Dataset, str or path
            All its rows are evaluated.
        by : {"gate", "responsibility"}
            What the features say, or what the target says too.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the rows have one dimension only.
        """
        return draw_ruling_expert(self._shown, data, by, ax)

    def coefficients(
        self,
        variable: Literal["coef", "gate_coef"] = "coef",
        *,
        level: float = 0.95,
        standardized: bool | None = None,
        output: str | float | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """The coefficients of all experts with their intervals, where the model has errors.

        Parameters
        ----------
        variable : {"coef", "gate_coef"}
            Of the experts, or of the gating network, relative to the last expert.
        level : float
            Of the intervals.
        standardized : bool, optional
            Whether they are effects of a standard deviation of each feature, which makes them comparable; by
            default where the model knows these. Of more than 40 the largest are shown.
        output : str or number, optional
            As in `experts`; the gating network is that of all outputs.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidOptionError
            If the deviations are asked for and not known; for ``output`` as `experts`.
        """
        of_gates = variable == "gate_coef" and output is None
        shown = self._shown if of_gates else Shown.of(self._model, output)
        return draw_coefficients(shown, variable, level, standardized, ax)

    def convergence(
        self, of: Literal["rounds", "mm", "starts"] | None = None, *, ax: Axes | None = None
    ) -> Axes:
        """How the fit came to its end.

        Parameters
        ----------
        of : {"rounds", "mm", "starts"}, optional
            The rounds of a refinement, the iterations of the MM algorithm, or the starts of the local fits;
            by default the first of these that the model has.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the model has none.
        """
        return draw_convergence(self._shown.experts, of, ax)

    def drift(self, *, ax: Axes | None = None) -> Axes:
        """How far the rows of each `daskmoe.update` were from the model that they came to.

        The squared distance of their own optimum, a parameter, in the metric in which both are known: about
        one where nothing changed. Beyond the dashed line chance does not explain it; the text says what the
        new rows would gain by their own optimum.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the model has not been updated.
        """
        return draw_drift(self._shown.experts, ax)

    def partitions(
        self, term: str | None = None, *, output: str | float | None = None, ax: Axes | None = None
    ) -> Axes:
        """A coefficient of the partitions' own experts beside the model's, with its interval.

        Local experts have the colour of the expert that the transport plan sends most of them to.

        Parameters
        ----------
        term : str, optional
            A feature; by default the intercept. Where the target is labels, a class before it, as
            ``"mild, x1"``, or alone for its intercept; by default the second.
        output : str or number, optional
            As in `experts`.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the model has no local estimates.
        InvalidOptionError
            If ``term`` is none; for ``output`` as `experts`.
        """
        return draw_partitions(Shown.of(self._model, output), term, ax)

    def transport_plan(self, *, ax: Axes | None = None) -> Axes:
        """Which share of each partition's mass the transport plan moves to each expert.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the model has no plan.
        """
        return draw_transport_plan(self._shown, ax)

    def residuals(self, data: Data, *, output: str | float | None = None, ax: Axes | None = None) -> Axes:
        """The residuals y - E[y|x] by the prediction: their density, mean and standard deviation.

        Parameters
        ----------
        data : xr.Dataset, str or path
            With the target.
        output : str or number, optional
            As in `experts`.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the target is missing, or is labels.
        InvalidOptionError
            For ``output`` as `experts`.
        """
        return draw_residuals(Shown.of(self._model, output), data, ax)

    def calibration(self, data: Data, *, output: str | float | None = None, ax: Axes | None = None) -> Axes:
        """The probability integral transform F(y|x) of the rows, which is uniform if the model is right.

        A hump says that the model's distribution is too wide, a trough that it is too narrow. Of whole
        numbers, and at atoms, it is drawn between P(Y < y|x) and P(Y <= y|x).

        Parameters
        ----------
        data : xr.Dataset, str or path
            With the target; rows that the fit did not see say more.
        output : str or number, optional
            As in `experts`.
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InvalidDataError
            If the target is missing, or is labels.
        InvalidOptionError
            For ``output`` as `experts`.

        References
        ----------
        A. P. Dawid, Statistical theory: the prequential approach, JRSS A 147 (1984).
        """
        return draw_calibration(Shown.of(self._model, output), data, ax)
