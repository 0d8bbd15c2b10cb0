"""The fitted model: labelled parameters that predict, score, summarize and save themselves."""

from daskmoe.model.moe import MixtureOfExperts
from daskmoe.model.opening import open_model

__all__ = ["MixtureOfExperts", "open_model"]
