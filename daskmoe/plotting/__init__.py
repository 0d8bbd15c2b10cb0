"""Pictures of models: `MixtureOfExperts.plot`. Matplotlib is imported where it draws, and nowhere else."""

from daskmoe.model.moe import draw_with
from daskmoe.model.selection import draw_selections_with
from daskmoe.plotting.pictures import Pictures
from daskmoe.plotting.sizes import draw_selection

draw_with(Pictures)
draw_selections_with(draw_selection)

__all__ = ["Pictures"]
