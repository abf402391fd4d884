"""Part II: constraints on weights, as torch parametrizations."""

from lipnb.constraints.spectral import power_iteration, spectral_norm

__all__ = ["power_iteration", "spectral_norm"]
