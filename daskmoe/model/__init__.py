"""The fitted model: labelled parameters that predict, score, summarize and save themselves."""

from daskmoe.model.atoms import MixtureWithAtoms
from daskmoe.model.moe import MixtureOfExperts
from daskmoe.model.opening import any_model_at, open_model

__all__ = ["MixtureOfExperts", "MixtureWithAtoms", "any_model_at", "open_model"]
