"""Part II: constraints on weights, as projections after a step or as torch parametrizations.

A parametrized weight is computed at every use. A training step with an adversarial penalty uses
each layer k + 2 times or more; inside ``with torch.nn.utils.parametrize.cached():`` its weight is
computed once. Leave the context before the optimiser's step, or the next use is stale.
"""

from lipnb.constraints.clipping import clip_weights
from lipnb.constraints.convolution import convolution_norm
from lipnb.constraints.normalisation import spectral_norm
from lipnb.constraints.orthogonal import orthogonal
from lipnb.constraints.plain import plain_copy
from lipnb.constraints.projection import project_norm
from lipnb.constraints.spectral import power_iteration
from lipnb.constraints.tracked import NormProjection

__all__ = [
    "NormProjection",
    "clip_weights",
    "convolution_norm",
    "orthogonal",
    "plain_copy",
    "power_iteration",
    "project_norm",
    "spectral_norm",
]
