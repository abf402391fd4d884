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
from lipnb.theory.nearest_neighbours import ksg_mutual_information
from lipnb.theory.potentials import CertifiedGap, certified_gap, mcshane_extension
from lipnb.theory.transport import Transport, wasserstein1
from lipnb.theory.unconstrained import UnconstrainedWasserstein, unconstrained_wasserstein
from lipnb.theory.variational import (
    Variational,
    donsker_varadhan,
    effective_sample_size,
    info_nce,
    jensen_shannon,
    mine,
    nguyen_wainwright_jordan,
    smile,
    wasserstein_dependency,
)

__all__ = [
    "CertifiedGap",
    "FunnelPair",
    "MoreauYosida",
    "PotentialScores",
    "Transport",
    "UnconstrainedWasserstein",
    "Variational",
    "benchmark_pair",
    "certified_gap",
    "donsker_varadhan",
    "effective_sample_size",
    "gaussian_kl",
    "gaussian_mutual_information",
    "info_nce",
    "jensen_shannon",
    "judge_potential",
    "kl_divergence",
    "ksg_mutual_information",
    "mcshane_extension",
    "mine",
    "moreau_yosida_kl",
    "mutual_information",
    "nguyen_wainwright_jordan",
    "random_funnels",
    "smile",
    "unconstrained_wasserstein",
    "wasserstein1",
    "wasserstein_dependency",
]
