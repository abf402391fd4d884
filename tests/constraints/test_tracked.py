"""Projection with tracked norms: close to the full projection in slow training, and cheap."""

import copy

import pytest
import torch
from torch import nn

from lipnb.constraints import NormProjection, project_norm, spectral_norm


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# A layer, the shape of one input, and the images' size that the projection is told.
LAYERS = {
    "dense": (lambda: nn.Linear(24, 32), (24,), None),
    "small convolution": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 8, 8), (8, 8)),
    "large convolution": (lambda: nn.Conv2d(12, 12, 3, padding=1), (12, 8, 8), (8, 8)),
    "any size": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8), None),
    "circular": (
        lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"),
        (3, 8, 8),
        (8, 8),
    ),
}


def outside(layer):
    """Scale the weight far out of the ball, for the first projection to put it on the sphere."""
    with torch.no_grad():
        layer.weight.mul_(10)
    return layer


def norms_in_training(layer, projection, shape, layer_matrix, steps=40, forget=False):
    """Norms of the layer, every 8 steps of a slow training that pushes outwards."""
    projection.steps = 2
    x = torch.randn(16, *shape, generator=generator(1))
    y = torch.randn(layer(x).shape, generator=generator(2))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    norms = []
    for step in range(steps):
        optimizer.zero_grad()
        (-layer(x) * y).mean().backward()
        optimizer.step()
        if forget:
            u = torch.randn(projection.vectors[0].shape, generator=generator(step))
            projection.vectors = [u / u.norm()]
        projection()
        if step % 8 == 7:
            norms.append(torch.linalg.matrix_norm(layer_matrix(layer, *shape), 2).item())
    return norms


@pytest.mark.parametrize("name", LAYERS)
def test_the_constraint_holds_roughly_in_training_and_exactly_in_the_end(
    name, seeded, layer_matrix
):
    make, shape, size = LAYERS[name]
    layer = outside(seeded(make))
    projection = NormProjection(layer, input_size=size, generator=generator())
    norms = norms_in_training(layer, projection, shape, layer_matrix)
    assert max(norms) < 1.03
    assert norms[-1] > 0.9  # and no less than that: nothing is shrunk without need
    project_norm(layer, 2, input_size=size)
    assert torch.linalg.matrix_norm(layer_matrix(layer, *shape), 2) < 1 + 1e-5


@pytest.mark.parametrize(("name", "norm"), [("dense", 1.05), ("large convolution", 1.1)])
def test_a_vector_that_is_forgotten_lets_the_norm_grow(name, norm, seeded, layer_matrix):
    make, shape, size = LAYERS[name]
    layer = outside(seeded(make))
    projection = NormProjection(layer, input_size=size, generator=generator())
    norms = norms_in_training(layer, projection, shape, layer_matrix, forget=True)
    assert max(norms) > norm


def test_one_iteration_is_exact_for_rank_one():
    a, b = (torch.randn(n, generator=generator(n), dtype=torch.float64) for n in (5, 7))
    layer = nn.Linear(7, 5, dtype=torch.float64)
    projection = NormProjection(layer, bound=0.25, generator=generator())
    with torch.no_grad():
        layer.weight.copy_(torch.outer(a, b))
    projection()
    expected = 0.25 * torch.outer(a / a.norm(), b / b.norm())
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_the_start_is_the_full_projection_and_weights_inside_are_not_touched(seeded):
    wide = seeded(lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)))
    with torch.no_grad():
        wide[0].weight.mul_(10)
        wide[2].weight.mul_(0.1)
    twin = project_norm(copy.deepcopy(wide), 2)
    projection = NormProjection(wide, generator=generator())
    assert all(map(torch.equal, wide.state_dict().values(), twin.state_dict().values()))
    inside = wide[2].weight.detach().clone()
    projection()
    assert torch.equal(wide[2].weight, inside)


def test_a_weight_of_zeros_does_not_switch_the_projection_off():
    layer = nn.Linear(6, 6)
    projection = NormProjection(layer, steps=20, generator=generator())
    start = 10 * layer.weight.detach()
    for weight in (torch.zeros(6, 6), start):
        with torch.no_grad():
            layer.weight.copy_(weight)
        projection()
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, rel=0.02)
    zeros = nn.Linear(6, 6)
    nn.init.zeros_(zeros.weight)
    projection = NormProjection(zeros, steps=20, generator=generator())
    with torch.no_grad():
        zeros.weight.copy_(start)
    projection()
    assert torch.linalg.matrix_norm(zeros.weight, 2).item() == pytest.approx(1, rel=0.02)


def test_stored_vectors_resume_a_run_and_generators_decide_it(seeded):
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        layer = seeded(lambda: nn.Linear(9, 8))
        one, other, third = (copy.deepcopy(layer) for _ in range(3))
        first = NormProjection(one, generator=generator())
        second = NormProjection(other, generator=generator())
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.vectors[0], second.vectors[0])
    stranger = NormProjection(third, generator=generator(1))
    stranger.vectors = [u.clone() for u in first.vectors]
    push = torch.randn(8, 9, generator=generator(3))
    for layer, projection in ((one, first), (third, stranger)):
        with torch.no_grad():
            layer.weight.add_(push)
        projection()
    assert torch.equal(one.weight, third.weight)


def test_half_precision_is_tracked_in_float32():
    layer = nn.Linear(16, 16, dtype=torch.bfloat16)
    projection = NormProjection(layer, generator=generator())
    with torch.no_grad():
        layer.weight.mul_(5)
    for _ in range(30):
        projection()
    assert projection.vectors[0].dtype == torch.float32
    norm = torch.linalg.matrix_norm(layer.weight.double(), 2).item()
    assert norm == pytest.approx(1, abs=0.02)


def test_errors():
    with pytest.raises(ValueError, match="steps must be an integer of at least 1; got 0"):
        NormProjection(nn.Linear(2, 2), steps=0)
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        NormProjection(3)
    with pytest.raises(ValueError, match="bound must be positive"):
        NormProjection(nn.Linear(2, 2), bound=0.0)
    with pytest.raises(ValueError, match="must be plain"):
        NormProjection(spectral_norm(nn.Linear(2, 2)))
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    projection = NormProjection(network)
    with torch.no_grad():
        network[0].weight.mul_(10)
        network[1].weight[0, 0] = float("nan")
    before = network[0].weight.clone()
    with pytest.raises(ValueError, match="weights must be finite"):
        projection()
    assert torch.equal(network[0].weight, before)
