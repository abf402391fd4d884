"""What every function on a finite space checks at the door."""

from __future__ import annotations

from lipnb.theory._clouds import Cloud, Floats, as_weights, to_numpy


def as_histogram(masses: Cloud, name: str) -> Floats:
    """Read non-negative masses (n,), n >= 1, of sum one."""
    array = to_numpy(masses, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (n,), n >= 1; got {array.shape}")
    return as_weights(array, array.size, name)


def as_joint_table(masses: Cloud, name: str) -> Floats:
    """Read non-negative masses (n, m), n, m >= 1, of sum one."""
    array = to_numpy(masses, name)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (n, m), n, m >= 1; got {array.shape}")
    return as_weights(array.ravel(), array.size, name).reshape(array.shape)
