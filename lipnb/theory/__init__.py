"""Part I: exact values of the quantities that the theory speaks of."""

from lipnb.theory.divergence import (
    gaussian_kl,
    gaussian_mutual_information,
    kl_divergence,
    mutual_information,
)
from lipnb.theory.funnels import FunnelPair, benchmark_pair, random_funnels
from lipnb.theory.judgement import PotentialScores, judge_potential
from lipnb.theory.moreau_yosida import MoreauYosida, moreau_yosida_kl
from lipnb.theory.potentials import CertifiedGap, certified_gap, mcshane_extension
from lipnb.theory.transport import Transport, wasserstein1
from lipnb.theory.unconstrained import UnconstrainedWasserstein, unconstrained_wasserstein

__all__ = [
    "CertifiedGap",
    "FunnelPair",
    "MoreauYosida",
    "PotentialScores",
    "Transport",
    "UnconstrainedWasserstein",
    "benchmark_pair",
    "certified_gap",
    "gaussian_kl",
    "gaussian_mutual_information",
    "judge_potential",
    "kl_divergence",
    "mcshane_extension",
    "moreau_yosida_kl",
    "mutual_information",
    "random_funnels",
    "unconstrained_wasserstein",
    "wasserstein1",
]
