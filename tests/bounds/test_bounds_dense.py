"""lipnb.bounds.dense: convolutions as matrices, with the order of flattening right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lipnb.bounds import as_dense, liplt, lipsdp, product_bound, sampled_bound
from lipnb.constraints.convolution import convolution_norm
from lipnb.models import GroupSort


def seeded(make: Callable[[], nn.Sequential]) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = make().eval()
    for module in network:
        if isinstance(module, nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(0)
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return network.double()


NETWORKS: list[Callable[[], nn.Sequential]] = [
    lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, 2)),
    lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(0.1),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1),
    ),
    lambda: nn.Sequential(
        nn.Conv2d(2, 4, 2, padding=1, padding_mode="circular", groups=2, bias=False), nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(120, 6)), GroupSort(), nn.Linear(6, 2),
    ),
    lambda: nn.Sequential(nn.ConvTranspose2d(2, 1, 2, stride=2), nn.ELU(), nn.Flatten()),
]  # fmt: skip


def images(n: int) -> Tensor:
    return torch.randn(n, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("make", NETWORKS)
def test_it_is_the_same_function(make: Callable[[], nn.Sequential]) -> None:
    network = seeded(make)
    dense = as_dense(network, (2, 4, 5))
    x = images(6)
    with torch.no_grad():
        torch.testing.assert_close(dense(x.flatten(1)), network(x).flatten(1), rtol=1e-12, atol=0)
    kinds = [type(module) for module in dense]
    assert all(a is not nn.Linear or b is not nn.Linear for a, b in zip(kinds, kinds[1:]))  # noqa: B905,RUF007


def test_column_major_flattening_would_be_another_function() -> None:
    network = seeded(NETWORKS[0])
    dense = as_dense(network, (2, 4, 5))
    order = torch.arange(60).view(3, 4, 5).permute(0, 2, 1).flatten()
    value = lipsdp(dense).value
    dense[2].weight.data = dense[2].weight.data[:, order]
    assert abs(lipsdp(dense).value / value - 1) > 1e-2


def test_norm_is_that_of_the_operator_not_of_the_reshaped_kernel() -> None:
    network = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False)))
    value = product_bound(as_dense(network, (2, 8, 8))).value
    operator = convolution_norm(network[0], input_size=(8, 8)).item()
    assert value == pytest.approx(operator, rel=1e-6)
    reshaped = torch.linalg.matrix_norm(network[0].weight.detach().flatten(1), ord=2).item()
    assert value > 1.1 * reshaped


@pytest.mark.parametrize("make", NETWORKS)
def test_bounds_hold_for_the_images(make: Callable[[], nn.Sequential]) -> None:
    network = seeded(make)
    dense = as_dense(network, (2, 4, 5))
    x, y = images(200), images(400)[200:]
    with torch.no_grad():
        quotients = (network(x) - network(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(
            dim=1
        )
    upper = lipsdp(dense).value
    assert quotients.max().item() <= upper
    assert sampled_bound(dense).value <= upper <= product_bound(dense).value
    if not any(isinstance(module, GroupSort) for module in dense):
        assert upper <= liplt(dense).value * (1 + 1e-6)


def test_the_network_stays_as_it_was() -> None:
    network = seeded(NETWORKS[1])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    as_dense(network, (2, 4, 5))[0].weight.data.zero_()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_cannot_be_written_so_is_refused() -> None:
    with pytest.raises(TypeError, match="got MaxPool2d"):
        as_dense(nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2)), (1, 4, 4))
    with pytest.raises(TypeError, match="must be in evaluation mode"):
        as_dense(nn.Sequential(nn.BatchNorm2d(1)), (1, 4, 4))
    with pytest.raises(TypeError, match="must come after Flatten"):
        as_dense(nn.Sequential(nn.Conv2d(1, 2, 1), GroupSort()), (1, 4, 4))
    with pytest.raises(ValueError, match="input_shape must fit"):
        as_dense(nn.Sequential(nn.Conv2d(1, 1, 1)), (2, 4, 4))
    with pytest.raises(ValueError, match="must be positive integers"):
        as_dense(nn.Sequential(nn.Conv2d(1, 1, 1)), (1, 0, 4))
    with pytest.raises(ValueError, match="at most 67108864 entries"):
        as_dense(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1)), (1, 100, 100))
    with pytest.raises(TypeError, match=r"must be an nn\.Sequential"):
        as_dense(nn.Linear(1, 1), (1,))  # type: ignore[arg-type]


def test_layers_with_a_forward_of_their_own_are_refused() -> None:
    class Residual(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + super().forward(x)

    class Rectified(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    class Steep(nn.ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 5 * super().forward(x)

    for layer in (Residual(nn.Linear(4, 4)), Rectified(4, 4), Steep()):
        network = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(4, 1))
        with pytest.raises(TypeError, match=f"{type(layer).__name__}.* forward of its own"):
            as_dense(network, (1, 2, 2))
    plain = type("Plain", (nn.Linear,), {})(4, 4)  # what torch's parametrizations make of a layer
    assert len(as_dense(nn.Sequential(nn.Flatten(), plain, nn.ReLU()), (1, 2, 2))) == 2
