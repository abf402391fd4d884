"""Each objective on a linear critic, where every number is known; and its passes, counted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnb.flops import count_flops
from lipnb.models import small_wgan_critic, wgan_critic, wgan_generator
from lipnb.regularizers import (
    WorstPoints,
    adversarial_lipschitz_penalty,
    sobolev_dual_norm,
    sobolev_norm,
)
from lipnb.training.wgan_device import DeviceOptions
from lipnb.training.wgan_networks import build_networks
from lipnb.training.wgan_objectives import (
    CriticTerms,
    Memory,
    critic_terms,
    generator_loss,
    value_loss,
)
from lipnb.training.wgan_presets import WganSettings, method_settings
from lipnb.training.wgan_steps import AlternatingSteps

SHAPE, N = (1, 8, 8), 6


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(slope: float, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, Tensor]:
    """A critic f(x) = <w, x> with |w| = slope, and w."""
    w = torch.randn(SHAPE, generator=seeded(0), dtype=dtype)
    w = slope * w / w.norm()
    layer = nn.Linear(64, 1, bias=False, dtype=dtype)
    layer.weight.data.copy_(w.flatten())
    return nn.Sequential(nn.Flatten(), layer), w


def batches(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    real, fake = (
        2 * torch.rand(N, *SHAPE, generator=seeded(seed), dtype=dtype) - 1 for seed in (1, 2)
    )
    return real, fake


def terms(settings: WganSettings, slope: float = 3.0, memory: Memory | None = None) -> CriticTerms:
    critic, _ = linear(slope)
    return critic_terms(settings, critic, *batches(), memory or Memory(), seeded(5))


def gap(slope: float = 3.0) -> float:
    _, w = linear(slope)
    real, fake = batches()
    return float(((real - fake) * w).flatten(1).sum(1).mean())


@pytest.mark.parametrize("slope", [0.25, 3.0])
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("objective", ["gp", "lp", "alp"])
def test_a_linear_critic_pays_for_its_slope(objective: str, one_sided: bool, slope: float) -> None:
    settings = WganSettings(objective=objective, weight=7.0, one_sided=one_sided)
    found = terms(settings, slope)
    excess = max(slope - 1, 0) if one_sided else slope - 1
    assert found.gap.item() == pytest.approx(gap(slope), abs=1e-6)
    assert found.penalty.item() == pytest.approx(excess**2, abs=1e-6)
    assert found.loss.item() == pytest.approx(-gap(slope) + 7 * excess**2, abs=1e-5)
    assert int(found.violations) == (slope > 1) * (2 * N if objective == "alp" else N)


def test_box_and_start_of_the_author_reach_the_penalty() -> None:
    """With the start that the cube gives and the clamp to [-1, 1], in the library's own words."""
    critic = small_wgan_critic(4)
    real, fake = batches(torch.float32)
    x = torch.cat([real, fake])
    settings = method_settings("author_code", radius=(8.0, 9.0))
    found = critic_terms(settings, critic, real, fake, Memory(), seeded(5))
    g = seeded(5)
    start = torch.rand(x.shape, generator=g) - 0.5
    options: dict[str, Any] = {"radius": (8.0, 9.0), "start": start, "generator": g}
    wanted = adversarial_lipschitz_penalty(critic, x, domain=(-1.0, 1.0), **options)
    torch.testing.assert_close(found.slopes, wanted.slopes.detach())
    # Sabotage: without the box, and without the start, other slopes come out.
    for changes in ({"domain": None}, {"start_direction": "gaussian"}):
        other = critic_terms(replace(settings, **changes), critic, real, fake, Memory(), seeded(5))
        assert not torch.allclose(other.slopes, found.slopes)


def test_explicit_pairs_are_those_of_equal_index() -> None:
    _, w = linear(3.0)
    real, fake = batches()
    rise = ((real - fake) * w).flatten(1).sum(1).abs()
    slopes = rise / (real - fake).flatten(1).norm(dim=1)
    found = terms(WganSettings(objective="explicit", one_sided=True, lipschitz_constant=0.2))
    torch.testing.assert_close(found.slopes, slopes, rtol=1e-6, atol=1e-7)
    excess = (slopes - 0.2).clamp_min(0).square().mean()
    assert 0.01 < float(excess) == pytest.approx(found.penalty.item(), rel=1e-5)


def test_the_largest_gradient_alone_pays_and_the_buffer_fills() -> None:
    memory = Memory(WorstPoints(4))
    settings = method_settings("paper", "max_gp", value_loss="linear", worst_points=4)
    found = terms(settings, 3.0, memory)
    assert found.penalty.item() == pytest.approx(9.0, abs=1e-6)
    assert found.loss.item() == pytest.approx(-gap() + 0.1 * 9, abs=1e-5)
    assert memory.worst is not None and memory.worst.points is not None
    assert memory.worst.points.shape == (4, *SHAPE)


def test_the_unconstrained_maximum_is_the_squared_distance() -> None:
    """Two points at distance D: the best f(x) = <w, x> has slope 2 D and the value D^2."""
    real, fake = torch.zeros(N, *SHAPE), torch.zeros(N, *SHAPE)
    real[:, 0, 0, 0] = 0.75
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))
    settings = WganSettings(objective="unconstrained", weight=1.0, power=2.0)
    values = []
    for slope in (1.0, 1.5, 2.0):
        critic[1].weight.data.zero_()
        critic[1].weight.data[0, 0] = slope
        found = critic_terms(settings, critic, real, fake, Memory(), seeded(0))
        values.append(-found.loss.item())
        (gradient,) = torch.autograd.grad(found.loss, critic[1].weight)
        assert float(gradient[0, 0]) == pytest.approx((slope - 1.5) / 2, abs=1e-5)
    assert values[1] == pytest.approx(0.75**2, abs=1e-6) == pytest.approx(max(values), abs=1e-6)
    cubed = replace(settings, power=3.0)  # W^3, at slope 3 W^2
    critic[1].weight.data[0, 0] = 3 * 0.75**2
    found = critic_terms(cubed, critic, real, fake, Memory(), seeded(0))
    assert -found.loss.item() == pytest.approx(0.75**3, abs=1e-5)


def test_banach_scales_come_from_the_batch() -> None:
    s, p = -0.5, 3.0
    real, _ = batches()
    weight = float(sobolev_norm(real, s, p).mean())
    scale = float(sobolev_dual_norm(real, s, p).mean())
    _, w = linear(3.0)
    slope = float(sobolev_dual_norm(w[None], s, p))
    memory = Memory()
    settings = WganSettings(objective="banach", sobolev=(s, p), drift=0.5, weight=4.0)
    found = terms(settings, 3.0, memory)
    f_real = (real * w).flatten(1).sum(1)
    wanted = -gap() / scale + weight * (slope / scale - 1) ** 2 + 0.5 * f_real.square().mean()
    assert found.loss.item() == pytest.approx(float(wanted), rel=1e-5)
    assert float(memory.scale) == pytest.approx(scale, rel=1e-6)
    critic, _ = linear(3.0)
    there = generator_loss(critic, real, memory.scale)
    assert there.item() == pytest.approx(-float(f_real.mean()) / scale, rel=1e-5)


def test_ct_adds_the_difference_of_two_dropout_passes() -> None:
    critic = small_wgan_critic(4, dropout=(0.5,))
    real, fake = batches(torch.float32)
    settings = method_settings("gulrajani", "ct")

    def found(**changes: Any) -> CriticTerms:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return critic_terms(
                replace(settings, **changes), critic, real, fake, Memory(), seeded(5)
            )

    both, half, none = (found(consistency_weight=w) for w in (2.0, 1.0, 0.0))
    assert (both.loss - none.loss).item() > 1e-4
    torch.testing.assert_close(both.loss - none.loss, 2 * (half.loss - none.loss))
    # Without dropout two passes agree, and GP is left.
    critic.eval()
    quiet = found(consistency_weight=2.0)
    torch.testing.assert_close(quiet.loss, found(consistency_weight=0.0).loss)


def test_with_dropout_both_ends_of_a_quotient_have_one_mask() -> None:
    critic = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 1))
    norm = critic[2].weight.norm().item()
    real, fake = batches(torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for changes in ({"radius": (1e-3, 1e-3), "xi": 1e-2}, {"objective": "explicit"}):
            settings = replace(method_settings("paper", dropout=(0.5,)), **changes)
            found = critic_terms(settings, critic, real, fake, Memory(), seeded(0))
            assert 0 < found.slopes.max().item() <= 2 * norm + 0.01  # dropout doubles what it keeps


def test_objectives_without_a_penalty_measure_nothing() -> None:
    for objective in ("none", "clip", "sn"):
        found = terms(WganSettings(objective=objective))
        assert found.loss.item() == pytest.approx(-gap(), abs=1e-6)
        assert found.slopes is None
        assert found.penalty.item() == 0


@pytest.mark.parametrize(
    ("kind", "phi"),
    [
        ("linear", lambda t: t),
        ("hinge", lambda t: max(0.0, 1 + t)),
        ("exponential", math.exp),
        ("logistic", lambda t: -math.log(1 / (1 + math.exp(t)))),  # -log sigmoid(-t)
        ("root", lambda t: math.sqrt(t * t + 1) + t),
    ],
)
def test_value_losses(kind: str, phi: Any) -> None:
    f_real, f_fake = (
        torch.tensor([0.3, -2.0], dtype=torch.float64),
        torch.tensor([1.7], dtype=torch.float64),
    )
    wanted = phi(1.7) + (phi(-0.3) + phi(2.0)) / 2
    assert float(value_loss(kind, f_real, f_fake)) == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(ValueError, match="kind must be one of linear"):
        value_loss("wgan", f_real, f_fake)


def test_with_batch_normalisation_real_and_fake_pass_by_themselves() -> None:
    critic = small_wgan_critic(4, batch_norm=True)
    real, fake = batches(torch.float32)
    settings = method_settings("paper", "alp_batch_norm")
    found = critic_terms(settings, critic, real, fake, Memory(), seeded(0))
    apart = critic(real).mean() - critic(fake).mean()
    torch.testing.assert_close(found.gap, apart)
    together = critic(torch.cat([real, fake]))
    assert abs((apart - together[:N].mean() + together[N:].mean()).item()) > 1e-3
    # The penalty's own passes move no running statistics: two passes, two counts, three times.
    layers = [m for m in critic.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {int(m.num_batches_tracked) for m in layers} == {2 + 2 + 1}


def test_spectral_normalisation_is_of_the_kernel_or_of_the_operator() -> None:
    for spectral in ("kernel", "operator"):
        settings = method_settings("paper", "sn", channels=4, spectral=spectral)
        critic, _ = build_networks(settings, (1, 8, 8), 0)
        layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        critic.train()
        for _ in range(30):  # power iterations
            critic(torch.zeros(1, 1, 8, 8))
        critic.eval()
        for layer in layers:
            weight = layer.weight.detach()
            if spectral == "kernel":
                norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
                assert float(norm) == pytest.approx(1, abs=2e-3)
            elif isinstance(layer, nn.Conv2d):
                side = 8 if weight.shape[1] == 1 and weight.shape[2] == 3 else 4
                basis = torch.eye(weight.shape[1] * side**2)
                images = basis.view(-1, weight.shape[1], side, side)
                matrix = nn.functional.conv2d(images, weight, padding=weight.shape[2] // 2)
                assert float(torch.linalg.matrix_norm(matrix.flatten(1), 2)) <= 1 + 1e-4


def critic_flops(method: str, **changes: Any) -> float:
    """GFLOP of one critic step's forward and backward passes, at full width, for 64 images."""
    settings = method_settings("paper", method, **changes)
    critic, _ = build_networks(settings, (3, 32, 32), 0)
    real, fake = (torch.rand(1, 3, 32, 32, generator=seeded(s)) * 2 - 1 for s in (1, 2))

    def step() -> None:
        critic_terms(settings, critic, real, fake, Memory(), seeded(0)).loss.backward()

    return 64 * count_flops(step) / 1e9


def test_a_critic_step_costs_what_its_passes_cost() -> None:
    """The forward pass of one image is 0.544 GFLOP, of one generated image 0.844."""
    images = torch.zeros(1, 3, 32, 32)
    forward = count_flops(lambda: wgan_critic()(images)) / 1e9
    made = count_flops(lambda: wgan_generator()(torch.zeros(1, 128))) / 1e9
    assert (forward, made) == (pytest.approx(0.544, abs=1e-3), pytest.approx(0.844, abs=1e-3))
    unit = 128 * forward
    assert critic_flops("none") / unit == pytest.approx(3, abs=0.02)
    assert critic_flops("explicit") / unit == pytest.approx(3, abs=0.02)  # no pass of its own
    assert critic_flops("alp", search_steps=0) / unit == pytest.approx(6, abs=0.03)
    assert critic_flops("alp") / unit == pytest.approx(8, abs=0.05)


def test_an_iteration_costs_what_its_steps_cost() -> None:
    """Five critic steps and one generator step of WGAN-ALP: 3.51 TFLOP for 64 and 128 images."""
    settings = method_settings("standard", batch=1, generator_batch=2)
    images = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    with torch.random.fork_rng():
        steps = AlternatingSteps(settings, images, 0, DeviceOptions(), torch.device("cpu"))
        steps.stream.go_to(0)
        found = 64 * count_flops(steps.iterate) / 1e12
    assert found == pytest.approx(3.51, abs=0.01)
