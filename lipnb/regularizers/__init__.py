"""Part II: penalties on the slope of a network, each returning a `Penalty`."""

from lipnb.regularizers.adversarial import adversarial_lipschitz_penalty, adversarial_perturbation
from lipnb.regularizers.gradient import gradient_penalty
from lipnb.regularizers.pairs import lipschitz_penalty
from lipnb.regularizers.penalty import Penalty, excess_penalty

__all__ = [
    "Penalty",
    "adversarial_lipschitz_penalty",
    "adversarial_perturbation",
    "excess_penalty",
    "gradient_penalty",
    "lipschitz_penalty",
]
