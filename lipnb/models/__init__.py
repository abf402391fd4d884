"""Networks that the chapters train."""

from lipnb.models.mlp import mlp

__all__ = ["mlp"]
