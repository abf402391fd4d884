"""Part I: exact values of the quantities that the theory speaks of."""

from lipnb.theory.potentials import CertifiedGap, certified_gap, mcshane_extension
from lipnb.theory.transport import Transport, wasserstein1

__all__ = ["CertifiedGap", "Transport", "certified_gap", "mcshane_extension", "wasserstein1"]
