"""Weight clipping: which parameters, and what is refused."""

import math

import pytest
import torch
from torch import nn

from lipnb.bounds import product_bound
from lipnb.constraints import clip_weights, orthogonal, spectral_norm
from lipnb.models import mlp


def network():
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(5),
        nn.RMSNorm(5),
        nn.Linear(5, 2),
    ]
    return nn.Sequential(*layers)


def test_every_parameter_is_clamped_in_place_and_buffers_are_not():
    net = network()
    with torch.no_grad():
        net[0].weight[0, 0, 0] = torch.tensor([-5.0, 0.004, 7.0])
    net[1].running_mean.fill_(3.0)
    net[6].weight.requires_grad_(False)
    before = [p.data_ptr() for p in net.parameters()]
    old = [p.detach().clone() for p in net.parameters()]
    assert clip_weights(net, 0.01) is net
    for p, q in zip(net.parameters(), old, strict=True):
        assert torch.equal(p, q.where(q.abs() <= 0.01, 0.01 * q.sign()))
    assert torch.allclose(net[0].weight[0, 0, 0], torch.tensor([-0.01, 0.004, 0.01]), atol=0)
    assert before == [p.data_ptr() for p in net.parameters()]
    assert net[1].running_mean.eq(3.0).all()
    assert all(p.grad_fn is None and p.is_leaf for p in net.parameters())


def test_the_default_bound_is_that_of_the_paper():
    assert clip_weights(nn.Linear(9, 9)).weight.abs().max().item() == pytest.approx(0.01)


def test_normalisation_layers_can_be_left_out():
    net = clip_weights(network(), 0.01, normalisation=False)
    assert [net[i].weight.min().item() for i in range(1, 6)] == [1.0] * 5
    assert max(net[0].weight.abs().max(), net[6].bias.abs().max()) <= 0.01
    assert clip_weights(net)[1].weight.max().item() == pytest.approx(0.01)


def test_clipping_bounds_the_constant_by_the_box_alone():
    net = clip_weights(mlp([2, 16, 16, 1]), 0.1)
    # The largest matrix of the box has all entries c, and norm c sqrt(n m).
    box = 0.1**3 * math.sqrt(2 * 16) * 16 * math.sqrt(16)
    assert 0 < product_bound(net).value <= box
    for p in net.parameters():
        nn.init.constant_(p, 7.0)
    assert product_bound(clip_weights(net, 0.1)).value == pytest.approx(box)


@pytest.mark.parametrize("bound", [0, -0.01, math.inf, math.nan])
def test_bad_bounds_are_refused(bound):
    with pytest.raises(ValueError, match="bound must be positive and finite"):
        clip_weights(nn.Linear(2, 2), bound)


def test_parametrized_weights_are_refused_and_nothing_is_clipped():
    for constrain in (spectral_norm, orthogonal):
        net = nn.Sequential(nn.Linear(2, 2), constrain(nn.Linear(2, 2)))
        nn.init.ones_(net[0].weight)
        with pytest.raises(ValueError, match="got 1 with a parametrized weight"):
            clip_weights(net)
        assert net[0].weight.eq(1).all()
    # What the check prevents: a stored weight within the box, and a used one far outside.
    layer = spectral_norm(nn.Linear(2, 2))
    with torch.no_grad():
        layer.parametrizations.weight.original.clamp_(-0.01, 0.01)
    assert layer.weight.abs().max() > 0.2


def test_other_errors():
    with pytest.raises(TypeError, match=r"nn\.Module; got Tensor"):
        clip_weights(torch.ones(2))
    with pytest.raises(ValueError, match="parameters to clip; got ReLU"):
        clip_weights(nn.ReLU())
    with pytest.raises(ValueError, match="parameters to clip; got LayerNorm"):
        clip_weights(nn.LayerNorm(3), normalisation=False)
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.constant_(net[1].bias, math.nan)
    with pytest.raises(ValueError, match=r"finite; got NaN or infinity in 1\.bias"):
        clip_weights(net)
    assert net[0].weight.abs().max() > 0.01
