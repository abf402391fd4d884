"""Part III: how large is the Lipschitz constant? Bounds and exact values."""

from lipnb.bounds.enumeration import Region, enumerate_regions, linear_regions
from lipnb.bounds.layerwise import activation_constant, product_bound
from lipnb.bounds.lower import pair_quotients, sampled_bound
from lipnb.bounds.network import operator_norm
from lipnb.bounds.result import Bound

__all__ = [
    "Bound",
    "Region",
    "activation_constant",
    "enumerate_regions",
    "linear_regions",
    "operator_norm",
    "pair_quotients",
    "product_bound",
    "sampled_bound",
]
