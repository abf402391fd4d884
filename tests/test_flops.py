"""lipnb.flops: known counts, and what each penalty may cost on the critic of WGAN-GP."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from lipnb.flops import count_flops
from lipnb.models import lean, wgan_critic, wgan_generator
from lipnb.regularizers import (
    adversarial_lipschitz_penalty,
    consistency_penalty,
    gradient_penalty,
    lipschitz_penalty,
)

PAIRS = 2  # real and generated images in a batch, N


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_products_of_matrices_and_vectors() -> None:
    a, b, v = torch.ones(5, 7), torch.ones(7, 3), torch.ones(7)
    assert count_flops(lambda: a @ b) == 2 * 5 * 7 * 3
    assert count_flops(lambda: a @ v) == 2 * 5 * 7
    assert count_flops(lambda: v @ v) == 2 * 7
    assert count_flops(lambda: torch.addmv(torch.ones(5), a, v)) == 2 * 5 * 7
    assert count_flops(
        lambda: torch.einsum("nij,njk->nik", a.expand(4, 5, 7), b.expand(4, 7, 3))
    ) == (4 * 2 * 5 * 7 * 3)
    assert count_flops(lambda: (a + a).relu().exp().sum()) == 0


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_layers_in_every_mode(mode: Callable[[], object]) -> None:
    with mode():
        layer, x = nn.Linear(7, 3), torch.ones(5, 7)
        assert count_flops(lambda: layer(x)) == 2 * 5 * 7 * 3
        conv, image = nn.Conv2d(3, 4, (3, 2)), torch.ones(2, 3, 8, 8)
        assert count_flops(lambda: conv(image)) == 2 * (2 * 4 * 6 * 7) * (3 * 3 * 2)


@pytest.mark.parametrize("needs_input", [False, True])
def test_backward_passes(needs_input: bool) -> None:
    layers = (nn.Linear(7, 3), nn.Conv2d(3, 4, 3, padding=1))
    inputs = (torch.ones(5, 7), torch.ones(2, 3, 8, 8))
    for layer, x in zip(layers, inputs, strict=True):
        x.requires_grad_(needs_input)
        forward = count_flops(lambda: layer(x))  # noqa: B023
        # One product for the weight, one for the input if that is asked for.
        both = count_flops(lambda: layer(x).sum().backward())  # noqa: B023
        assert both == (3 if needs_input else 2) * forward


def test_gradients_of_a_leaf_and_second_derivatives() -> None:
    layer, x = nn.Conv2d(3, 4, 3, padding=1), torch.ones(2, 3, 8, 8, requires_grad=True)
    forward = count_flops(lambda: layer(x))

    def gradient() -> Tensor:
        return torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]

    assert count_flops(gradient) == 2 * forward
    # Second order, for y = Wx: the gradient W^T 2Wx is differentiated in both W (a forward pass
    # and a product for the weight) and in what W^T multiplies (a backward pass of two products).
    assert count_flops(lambda: gradient().square().sum().backward()) == (2 + 2 + 2) * forward


def test_functions_only() -> None:
    with pytest.raises(TypeError, match="function must be callable; got int"):
        count_flops(3)  # type: ignore[arg-type]


def test_networks_at_full_size() -> None:
    critic, generator = wgan_critic(), wgan_generator()
    c, positions = 128, 32 * 32
    # Multiplications with 9 c^2 weights at 32 x 32 positions once, at 16 x 16 twice, at 8 x 8
    # four times; then the first convolution, the two shortcuts and the linear layer.
    products = 9 * c * c * positions * (1 + 2 / 4 + 4 / 16)
    products += 27 * c * positions + 3 * c * positions / 4 + c * c * positions / 4 + c
    assert count_flops(lambda: critic(torch.zeros(1, 3, 32, 32))) == 2 * products
    blocks = (2 * 9 + 1) * c * c * positions * (1 + 1 / 4 + 1 / 16)
    products = 128 * 16 * c + blocks + 27 * c * positions
    assert count_flops(lambda: generator(torch.zeros(1, 128))) == 2 * products


# From here on: budgets, in units of a plain critic step, which is three passes over the 2N images
# (forward, backward to the activations, backward to the weights). They are sums of passes.

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def images() -> Tensor:
    return 2 * torch.rand(2 * PAIRS, 3, 32, 32, generator=seeded(0)) - 1


def cost(penalty: Loss, critic: nn.Module | None = None, x: Tensor | None = None) -> float:
    """Operations of a critic step with a penalty, over those of one without."""
    critic = wgan_critic(16) if critic is None else critic
    x = images() if x is None else x
    parameters = list(critic.parameters())

    def step(penalty: Loss | None) -> None:
        y = critic(x)
        loss = y[PAIRS:].mean() - y[:PAIRS].mean()
        if penalty is not None:
            loss = loss + 10 * penalty(critic, x, y)
        loss.backward(inputs=parameters)

    return count_flops(lambda: step(penalty)) / count_flops(lambda: step(None))


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_adversarial_penalty_sits_on_its_floor(steps: int) -> None:
    def on_all(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return adversarial_lipschitz_penalty(f, x, output=y, steps=steps, generator=seeded(1)).loss

    def on_half(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return on_all(f, x[::2], y[::2])

    def wasteful(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return adversarial_lipschitz_penalty(f, x, steps=steps, generator=seeded(1)).loss

    # k times forward and backward to the input, then forward and a full backward pass: 2k + 3.
    assert cost(on_all) == pytest.approx(1 + (2 * steps + 3) / 3, rel=0.03)
    assert cost(on_half) == pytest.approx(1 + (2 * steps + 3) / 6, rel=0.03)
    # f(x) once more, with its backward pass: the budget sees it.
    assert cost(wasteful) == pytest.approx(1 + (2 * steps + 6) / 3, rel=0.03)


def test_direction_from_the_graph_of_the_training_loss_saves_a_pass() -> None:
    x = images().requires_grad_()

    def penalty(f: nn.Module, _: Tensor, y: Tensor) -> Tensor:
        return adversarial_lipschitz_penalty(f, x, output=y, xi=0.0, generator=seeded(1)).loss

    # One pass back to the input, in place of two; the rest as above.
    assert cost(penalty, x=x) == pytest.approx(1 + (1 + 3) / 3, rel=0.03)


def test_consistency_term_costs_half_a_step() -> None:
    def penalty(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return consistency_penalty(f, x[:PAIRS], output=y[:PAIRS], generator=seeded(1)).loss

    assert cost(penalty, wgan_critic(16, dropout=(0.2, 0.5, 0.5)).eval()) == 1.5


def test_explicit_pairs_cost_nothing() -> None:
    def penalty(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        real, generated = x[:PAIRS], x[PAIRS:]
        return lipschitz_penalty(lambda _: y[PAIRS:], real, generated, output=y[:PAIRS]).loss

    assert cost(penalty) == 1.0


@pytest.mark.parametrize("one_sided", [False, True])
def test_gradient_penalty_with_stock_and_lean_layers(one_sided: bool) -> None:
    def penalty(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        middle = torch.lerp(x[:PAIRS], x[PAIRS:], torch.rand(PAIRS, 1, 1, 1, generator=seeded(2)))
        return gradient_penalty(f, middle, one_sided=one_sided).loss

    # Per interpolate: forward, backward to the input, two passes of second order; torch adds a
    # backward pass through zeros, to the activations and to the weights.
    assert cost(penalty) == pytest.approx(1 + 6 / 6, rel=0.03)
    assert cost(penalty, lean(wgan_critic(16))) == pytest.approx(1 + 4 / 6, rel=0.03)


def load_benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "penalties.py"
    specification = importlib.util.spec_from_file_location("benchmark_of_penalties", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # its dataclass looks itself up there
    specification.loader.exec_module(module)
    return module


benchmark = load_benchmark()


@pytest.mark.parametrize("name", benchmark.VARIANTS)
def test_the_rows_of_the_benchmark_cost_what_theory_says(name: str) -> None:
    plain, variant = (
        benchmark.Stepper(benchmark.VARIANTS[row], 16, PAIRS) for row in ("plain", name)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)  # dropout
        ratio = count_flops(variant.gradients) / count_flops(plain.gradients)
    assert ratio == pytest.approx(variant.variant.theory, rel=0.03)
