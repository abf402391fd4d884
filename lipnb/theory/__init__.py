"""Part I: exact values of the quantities that the theory speaks of."""

from lipnb.theory.divergence import (
    gaussian_kl,
    gaussian_mutual_information,
    kl_divergence,
    mutual_information,
)
from lipnb.theory.funnels import FunnelPair, benchmark_pair, random_funnels
from lipnb.theory.judgement import PotentialScores, judge_potential
from lipnb.theory.potentials import CertifiedGap, certified_gap, mcshane_extension
from lipnb.theory.transport import Transport, wasserstein1

__all__ = [
    "CertifiedGap",
    "FunnelPair",
    "PotentialScores",
    "Transport",
    "benchmark_pair",
    "certified_gap",
    "gaussian_kl",
    "gaussian_mutual_information",
    "judge_potential",
    "kl_divergence",
    "mcshane_extension",
    "mutual_information",
    "random_funnels",
    "wasserstein1",
]
