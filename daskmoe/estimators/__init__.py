"""Estimators that scikit-learn's tools take for their own: pipelines, searches, cross-validation.

They keep its contract without being its classes, so that nothing of it is imported with the package.
"""

from daskmoe.estimators.classifier import MoEClassifier
from daskmoe.estimators.regressor import MoERegressor

__all__ = ["MoEClassifier", "MoERegressor"]
