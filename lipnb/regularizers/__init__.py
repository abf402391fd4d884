"""Part II: penalties on the slope of a network, each returning a `Penalty`."""

from lipnb.regularizers.adversarial import adversarial_lipschitz_penalty
from lipnb.regularizers.consistency import consistency_penalty
from lipnb.regularizers.gradient import gradient_penalty
from lipnb.regularizers.maximum import WorstPoints, max_gradient_penalty
from lipnb.regularizers.norms import (
    BanachScales,
    banach_scales,
    lebesgue_norm,
    sobolev_dual_norm,
    sobolev_norm,
)
from lipnb.regularizers.pairs import lipschitz_penalty
from lipnb.regularizers.penalty import Penalty, excess_penalty
from lipnb.regularizers.perturbation import adversarial_perturbation
from lipnb.regularizers.points import interpolate, local_perturbation, random_pairs
from lipnb.regularizers.virtual import virtual_adversarial_loss

__all__ = [
    "BanachScales",
    "Penalty",
    "WorstPoints",
    "adversarial_lipschitz_penalty",
    "adversarial_perturbation",
    "banach_scales",
    "consistency_penalty",
    "excess_penalty",
    "gradient_penalty",
    "interpolate",
    "lebesgue_norm",
    "lipschitz_penalty",
    "local_perturbation",
    "max_gradient_penalty",
    "random_pairs",
    "sobolev_dual_norm",
    "sobolev_norm",
    "virtual_adversarial_loss",
]
