"""lipnb.bounds.network: operator norms, reading of layers and boxes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from lipnb.bounds import operator_norm, product_bound
from lipnb.bounds.network import Affine, input_dimension, read_box, read_layers
from lipnb.models import mlp

NORMS = (1, 2, math.inf)
entries = st.floats(-10, 10, allow_subnormal=False)
matrices = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=entries)
)


def vertices(dimension: int, norm: float) -> torch.Tensor:
    """Corners of the unit ball of the 1-norm or the maximum norm, one a row."""
    if norm == 1:
        return torch.cat([torch.eye(dimension), -torch.eye(dimension)]).double()
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dimension)), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(matrices)
@pytest.mark.parametrize("norm", [1, math.inf])
def test_closed_form_equals_the_maximum_over_the_corners(norm: float, array: np.ndarray) -> None:
    m = torch.from_numpy(array)
    images = vertices(m.shape[1], norm) @ m.T
    best = torch.linalg.vector_norm(images, ord=norm, dim=1).max()
    assert operator_norm(m, norm).item() == pytest.approx(best.item(), rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_spectral_norm_is_the_root_of_the_largest_eigenvalue(array: np.ndarray) -> None:
    largest = np.linalg.eigvalsh(array.T @ array)[-1]
    value = operator_norm(torch.from_numpy(array), 2).item()
    assert value**2 == pytest.approx(largest, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_one_row_gives_the_dual_norm_and_batches_work(norm: float) -> None:
    rows = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]]])
    dual = {1: 4.0, 2: 5.0, math.inf: 7.0}[norm]
    assert operator_norm(rows, norm).tolist() == pytest.approx([dual, 0.0])


@pytest.mark.parametrize(
    ("matrix", "norm"),
    [
        (torch.eye(2), 3),
        (torch.eye(2), -1),
        (torch.ones(2), 2),
        (torch.tensor([[math.nan]]), 2),
        (torch.tensor([[math.inf]]), 1),
    ],
)
def test_bad_matrices_and_norms_are_refused(matrix: torch.Tensor, norm: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        operator_norm(matrix, norm)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_folded_in_evaluation_mode(affine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm1d(4, affine=affine, dtype=torch.float64)
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.5, 2.0, generator=generator)
    if affine:
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    linear = mlp([3, 4], generator=generator, dtype=torch.float64)[0]
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    for network in (nn.Sequential(linear, norm), nn.Sequential(nn.Sequential(linear), norm)):
        (layer,) = read_layers(network.eval())
        assert isinstance(layer, Affine)
        torch.testing.assert_close(x @ layer.weight.T + layer.bias, network(x).detach())
    (alone,) = read_layers(nn.Sequential(norm))
    assert isinstance(alone, Affine)
    y = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(y @ alone.weight.T + alone.bias, norm(y).detach())


def test_batch_norm_in_training_mode_is_refused() -> None:
    network = mlp([2, 3, 1], batch_norm=True)
    with pytest.raises(TypeError, match="evaluation mode"):
        read_layers(network)
    untracked = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(TypeError, match="running statistics"):
        read_layers(untracked.eval())


def test_reading_leaves_the_network_alone_and_copies() -> None:
    network = mlp([2, 3, 1], dtype=torch.float64)
    layers = read_layers(network)
    layers[0].weight.zero_()
    assert network[0].weight.abs().min() > 0
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert input_dimension(layers) == 2


def test_identity_layers_and_missing_biases_are_read() -> None:
    network = nn.Sequential(nn.Identity(), nn.Linear(2, 3, bias=False), nn.ReLU())
    layers = read_layers(network)
    assert len(layers) == 2
    assert torch.equal(layers[0].bias, torch.zeros(3, dtype=torch.float64))


def test_networks_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(TypeError, match=r"nn\.Sequential; got Linear"):
        read_layers(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="affine layer; got none"):
        read_layers(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="one gives 3 numbers, the next takes 2"):
        read_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(2, 1)))
    broken = mlp([2, 1])
    broken[0].bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="finite weights"):
        read_layers(broken)


def test_boxes() -> None:
    assert read_box(None, 2) is None
    assert read_box((-1, 2.0), 2) == ((-1.0, -1.0), (2.0, 2.0))
    assert read_box((torch.zeros(2), np.array([1.0, 2.0])), 2) == ((0.0, 0.0), (1.0, 2.0))


@pytest.mark.parametrize(
    "domain",
    [(1, 0), (0, 0), (0, math.inf), (math.nan, 1), ([0.0], [1.0, 1.0, 1.0]), (0, 1, 2), 3.0],
)
def test_bad_boxes_are_refused(domain: object) -> None:
    with pytest.raises(ValueError, match=r"domain|low"):
        read_box(domain, 2)


def test_dropout_counts_only_while_it_trains() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 1))
    assert len(read_layers(network.eval())) == 3
    assert len(read_layers(network.train())) == 4
    with pytest.raises(TypeError, match="Dropout"):
        product_bound(network)


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Steep(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 5 * super().forward(x)


class Named(nn.Linear):
    """A subclass that computes what its class computes."""


def test_modules_that_compute_something_else_are_refused() -> None:
    f = mlp([2, 3, 2], generator=torch.Generator().manual_seed(0))
    honest = product_bound(f).value
    assert product_bound(nn.Sequential(f)).value == honest
    wrong = [Residual(*f), nn.Sequential(Residual(*f)), nn.Sequential(f[0], Steep(), f[2])]
    wrong.append(nn.Sequential(Doubled(2, 3), nn.ReLU()))
    for network in wrong:
        with pytest.raises(TypeError, match=r"got (Residual|Doubled|Steep) with a forward of its"):
            product_bound(network)
    named = Named(2, 3)
    named.load_state_dict(f[0].state_dict())
    assert product_bound(nn.Sequential(named, *f[1:])).value == honest
    f[0].forward = lambda x: 2 * x  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="got Linear with a forward of its own"):
        product_bound(f)


def test_hooks_are_refused_and_parametrized_layers_are_not() -> None:
    f = mlp([2, 3, 2], generator=torch.Generator().manual_seed(0))
    handle = f[1].register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match=r"no forward hooks, .*; got ReLU with one"):
        product_bound(f)
    handle.remove()
    before = product_bound(f).value
    nn.utils.parametrizations.weight_norm(f[0])
    assert product_bound(f).value == pytest.approx(before, rel=1e-5)


def test_layers_that_are_empty_or_complex_are_refused_and_flat_points_stay_flat() -> None:
    empty = nn.Linear(2, 2, bias=False)
    empty.weight = nn.Parameter(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="inputs and outputs; got 2 and 0"):
        read_layers(nn.Sequential(empty))
    with pytest.raises(TypeError, match="real weights; got complex"):
        read_layers(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)))
    assert len(read_layers(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))) == 1
    with pytest.raises(ValueError, match=r"must be numbers; got \('a', 'b'\)"):
        read_box(("a", "b"), 2)
    with pytest.raises(ValueError, match=r"must be numbers; got \(None, 1\)"):
        read_box((None, 1), 2)
