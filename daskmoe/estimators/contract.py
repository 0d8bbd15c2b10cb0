"""What scikit-learn asks of every estimator: parameters, tags, errors of its own kinds.

scikit-learn is imported where it is the one who asks, and its errors are raised where it is there already:
who catches them has imported it.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Literal, Self, cast

from daskmoe.errors import InvalidOptionError, NotFittedError
from daskmoe.model import MixtureOfExperts
from daskmoe.model.pieces import card_of, folded, rows_of_facts
from daskmoe.options import OnError


class Estimator:
    """Parameters that are the arguments of ``__init__``, and a model once it is fitted."""

    model_: MixtureOfExperts
    on_error: OnError
    _estimator_type: Literal["regressor", "classifier"]

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Every parameter and its default, in the order of the signature."""
        signature = inspect.signature(cls.__init__).parameters
        return {name: known.default for name, known in signature.items() if name != "self"}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name.

        Parameters
        ----------
        deep : bool
            For scikit-learn's sake: no parameter is an estimator that has some of its own.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **params: Any) -> Self:
        """Change parameters; they are checked by the next `fit`.

        Returns
        -------
        self

        Raises
        ------
        InvalidOptionError
            For a name that is no parameter.
        """
        known = self._defaults()
        for name, value in params.items():
            if name not in known:
                raise InvalidOptionError(
                    f"Invalid parameter {name!r} for estimator {self}. Valid parameters are: {[*known]!r}."
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = {
            name: value
            for name, value in self.get_params().items()
            # Arrays and datasets compare element by element.
            if value is not self._defaults()[name] and repr(value) != repr(self._defaults()[name])
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _repr_html_(self) -> str:
        values = {name: repr(value) for name, value in self.get_params().items()}
        parameters = folded("parameters", rows_of_facts(values, most=len(values)))
        shown = card_of(repr(self), parameters)
        return shown + self.model_._repr_html_() if self.__sklearn_is_fitted__() else shown

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        regressor = self._estimator_type == "regressor"
        return Tags(
            estimator_type=self._estimator_type,
            target_tags=TargetTags(required=True, multi_output=regressor),
            regressor_tags=RegressorTags() if regressor else None,
            classifier_tags=None if regressor else ClassifierTags(),
            input_tags=InputTags(allow_nan=self.on_error == "skip"),
        )

    def _fitted(self) -> MixtureOfExperts:
        """The model; scikit-learn's `NotFittedError`, where it is imported, before there is one."""
        if not self.__sklearn_is_fitted__():
            name = type(self).__name__
            raise _own_kind("NotFittedError", NotFittedError)(
                f"This {name} instance is not fitted yet. Call 'fit' with appropriate arguments before using "
                "this estimator."
            )
        return self.model_


def conversion_warning() -> type[UserWarning]:
    """The class of warnings of data that were taken for what they are not quite."""
    return _own_kind("DataConversionWarning", UserWarning)


def _own_kind(name: str, otherwise: type[Any]) -> type[Any]:
    """A class of scikit-learn's exceptions where these are imported."""
    return cast(type[Any], getattr(sys.modules.get("sklearn.exceptions"), name, otherwise))
