"""Pictures of models: `MixtureOfExperts.plot`. Matplotlib is imported where it draws, and nowhere else."""

from daskmoe.model import MixtureOfExperts
from daskmoe.plotting.pictures import Pictures

MixtureOfExperts.draw_with(Pictures)

__all__ = ["Pictures"]
