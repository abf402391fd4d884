"""Part III: how large is the Lipschitz constant? Bounds and exact values."""

from lipnb.bounds.bracket import Bracket, lipschitz_bracket
from lipnb.bounds.branch_and_bound import branch_and_bound
from lipnb.bounds.dense import as_dense
from lipnb.bounds.eclipse import eclipse_fast
from lipnb.bounds.enumeration import Region, enumerate_regions, linear_regions
from lipnb.bounds.geolip import geolip
from lipnb.bounds.layerwise import activation_constant, product_bound
from lipnb.bounds.liplt import liplt
from lipnb.bounds.lipmip import lipmip
from lipnb.bounds.lipopt import lipopt
from lipnb.bounds.lipsdp import lipsdp
from lipnb.bounds.lower import pair_quotients, sampled_bound
from lipnb.bounds.moments import moment_relaxation
from lipnb.bounds.network import operator_norm
from lipnb.bounds.polygons import enumerate_polygons
from lipnb.bounds.power import power_bound
from lipnb.bounds.result import Bound
from lipnb.bounds.search_bound import SearchBound
from lipnb.bounds.seqlip import seqlip
from lipnb.bounds.walk import WitnessedBound, walk_bound

__all__ = [
    "Bound",
    "Bracket",
    "Region",
    "SearchBound",
    "WitnessedBound",
    "activation_constant",
    "as_dense",
    "branch_and_bound",
    "eclipse_fast",
    "enumerate_polygons",
    "enumerate_regions",
    "geolip",
    "linear_regions",
    "liplt",
    "lipmip",
    "lipopt",
    "lipschitz_bracket",
    "lipsdp",
    "moment_relaxation",
    "operator_norm",
    "pair_quotients",
    "power_bound",
    "product_bound",
    "sampled_bound",
    "seqlip",
    "walk_bound",
]
