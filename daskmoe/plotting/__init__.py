"""Pictures of models: `MixtureOfExperts.plot`. Matplotlib is imported where it draws, and nowhere else."""

from daskmoe.model.moe import draw_with
from daskmoe.plotting.pictures import Pictures

draw_with(Pictures)

__all__ = ["Pictures"]
