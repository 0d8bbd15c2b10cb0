"""The fitted model: labelled parameters that predict, score, summarize and save themselves."""

from daskmoe.model.moe import MixtureOfExperts
from daskmoe.model.opening import model_at, open_model

__all__ = ["MixtureOfExperts", "model_at", "open_model"]
