"""How well a model describes rows: likelihood, criteria, R²."""

from __future__ import annotations

from daskmoe.model import classes, criteria, outputs, prediction
from daskmoe.model.base import LabelledModel
from daskmoe.options import OnError
from daskmoe.rows import Data


class Judging(LabelledModel):
    """A model that judges itself, by the rows of its fit or others."""

    # Whether the log has said what figures of a density are worth here.
    _told_of_floor = False

    def log_likelihood(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Sum of log f(y|x) over all rows of ``data``, each counted once; one computation, chunk by chunk.

        Without data, that of the rows of the fit, weighted as there, where the fit keeps it: `fit_local`,
        `refine`, ``aggregation="auto"``.

        Where an expert is at the variance floor, on values that the target repeats, the density there grows
        with the floor's fineness: neither this nor `aic`, `bic` and `icl` compare such a model with others.

        Parameters
        ----------
        data : xr.Dataset, str or path, optional
            With the target. Row weights are not used.
        on_error : {"raise", "skip"}
            "skip" leaves out rows with a missing or infinite value. Rows of which target and features are all
            missing, as over the sea, are not there and need no word.

        Returns
        -------
        float
            In nats.

        Raises
        ------
        InvalidDataError
            If the target or a feature is missing; if a row holds a missing or infinite value, or with
            "skip" all do; without data, if the model does not know.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> masked = data.where(data["y"] > 0)
        >>> truth.log_likelihood(masked, on_error="skip") < 0
        True
        """
        return self._likelihood(data, on_error).value

    def aic(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Akaike's criterion 2 P - 2 log L, with P = `n_parameters`; the less the better.

        Of no meaning on values that the target repeats: see `log_likelihood`.

        Parameters
        ----------
        data, on_error
            As in `log_likelihood`: without data, of the rows of the fit.

        Returns
        -------
        float

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
        >>> abs(model.aic() - model.aic(data)) < 1e-6
        True
        """
        return criteria.aic(self._likelihood(data, on_error), self.n_parameters)

    def bic(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """Schwarz' criterion P log n - 2 log L, with n the rows or the sum of their weights.

        Of no meaning on values that the target repeats: see `log_likelihood`.

        Parameters
        ----------
        data, on_error
            As in `aic`.

        Returns
        -------
        float
            The less the better.

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> one, two = (daskmoe.fit_local(data, "y", n_experts=k, random_state=0) for k in (1, 2))
        >>> two.bic() < one.bic()
        True
        """
        return criteria.bic(self._likelihood(data, on_error), self.n_parameters)

    def icl(self, data: Data | None = None, *, on_error: OnError = "raise") -> float:
        """The integrated completed likelihood, as BIC + 2 E, with E the entropy of all responsibilities.

        It asks more than BIC: that rows belong to one expert each. Of no meaning on values that the target
        repeats: see `log_likelihood`.

        Parameters
        ----------
        data, on_error
            As in `aic`.

        Returns
        -------
        float
            The less the better.

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        References
        ----------
        C. Biernacki, G. Celeux and G. Govaert, Assessing a mixture model for clustering with the integrated
        completed likelihood, IEEE Transactions on Pattern Analysis and Machine Intelligence 22 (2000).

        Examples
        --------
        >>> import daskmoe
        >>> data, _ = daskmoe.simulate(1000, n_features=2, n_experts=2, random_state=0)
        >>> model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
        >>> model.icl() > model.bic()
        True
        """
        entropy = criteria.entropy(self._parts, self.mixture, data, on_error=on_error)
        return criteria.icl(self._likelihood(data, on_error), self.n_parameters, entropy)

    def _likelihood(self, data: Data | None, on_error: OnError) -> criteria.Likelihood:
        if not self._told_of_floor:
            criteria.tell_of_floor(self._parts, self.mixture)
            self._told_of_floor = True
        return criteria.likelihood(self._parts, self.mixture, data, on_error=on_error)

    def score(self, data: Data, *, on_error: OnError = "raise") -> float:
        """R² = 1 - sum (y - E[y|x])² / sum (y - mean y)² over all rows of ``data``; one computation.

        For a constant target it is 1 where the prediction is exact, else 0. Of a target that is labels, the
        share of the rows whose class is the most likely one. Of several outputs, the mean of their R².

        Parameters
        ----------
        data, on_error
            As in `log_likelihood`.

        Returns
        -------
        float

        Raises
        ------
        InvalidDataError
            As `log_likelihood`.

        Examples
        --------
        >>> import daskmoe
        >>> data, truth = daskmoe.simulate(100, n_features=2, n_experts=2, random_state=0)
        >>> 0 < truth.score(data) < 1
        True
        """
        if self.densities.nominal:
            return classes.accuracy(self.mixture, self.densities, data, self.rows, on_error)
        if self.rows.output_dim is not None:
            return outputs.r_squared(self.mixture, self.densities, data, self.rows, on_error)
        return prediction.r_squared(self.mixture, self.densities, data, self.rows, on_error)
