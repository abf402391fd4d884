"""Networks that others have published, with the constants stated there or found by others' code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipnb.bounds import eclipse_fast, geolip, lipsdp, product_bound, seqlip, walk_bound
from lipnb.models import GroupSort, mlp

HERE = Path(__file__).parent
README = json.loads((HERE / "lipsdp_network.json").read_text())
KNOWN = json.loads((HERE / "known_networks.json").read_text())["networks"]


def network_of(weights: Any, biases: Any = None, activation: Any = nn.ReLU) -> nn.Sequential:
    matrices = [torch.tensor(w, dtype=torch.float64) for w in weights]
    network = mlp(
        [matrices[0].shape[1], *(len(w) for w in matrices)], activation, dtype=torch.float64
    )
    for i, (layer, weight) in enumerate(zip(network[::2], matrices, strict=True)):
        layer.weight.data = weight
        layer.bias.data.zero_()
        if biases:
            layer.bias.data += torch.tensor(biases[i], dtype=torch.float64)
    return network


def known(name: str, activation: Any = nn.ReLU) -> nn.Sequential:
    return network_of(KNOWN[name]["weights"], KNOWN[name]["biases"], activation)


def test_the_random_network_of_lipsdp() -> None:
    network, constants = network_of(README["weights"]), README["constants"]
    # The README rounds to five digits.
    assert lipsdp(network).value == pytest.approx(constants["lipsdp_neuron"], rel=2e-5)
    layer = lipsdp(network, multipliers="layer").value
    assert layer == pytest.approx(constants["lipsdp_layer"], rel=2e-5)
    assert eclipse_fast(network).value == pytest.approx(constants["eclipse_fast"], rel=1e-6)
    # No weight is negative, so all units on is the largest pattern, and it is reached.
    matrices = [layer.weight.detach() for layer in network[::2]]
    exact = torch.linalg.matrix_norm(torch.linalg.multi_dot(matrices[::-1]), ord=2).item()
    assert exact <= lipsdp(network).value <= exact * (1 + 1e-7)
    walk = walk_bound(network, steps=50).value
    assert walk == pytest.approx(exact, rel=1e-9)
    assert walk <= exact


@pytest.mark.parametrize(
    ("name", "exact", "semidefinite"),
    [("iris", 11.634355134114875, 11.63534), ("wine", 1.7433699967107172, 1.8469127)],
)
def test_trained_networks_in_the_norm_2(name: str, exact: float, semidefinite: float) -> None:
    network = known(name)
    assert lipsdp(network).value == pytest.approx(semidefinite, rel=1e-6)
    assert 0.9 * exact <= walk_bound(network).value <= exact * (1 + 1e-12)
    for value in (seqlip(network).value, eclipse_fast(network).value):
        assert semidefinite < value < product_bound(network).value


def test_sorting_network_in_the_norm_2() -> None:
    network = known("wine_groupsort", GroupSort)
    value = lipsdp(network).value
    assert 2.788306161469607 <= value < product_bound(network).value
    assert walk_bound(network).value <= 2.788306161469607


def test_trained_network_in_the_norm_infinity() -> None:
    wine = known("wine")
    # Clarabel's optimum of the published program; 4.96765 is the largest over all gate patterns.
    assert geolip(wine).value == pytest.approx(5.73873, rel=2e-6)
    assert geolip(wine).value > 4.96765
    box = geolip(wine, domain=(-1, 1)).value
    assert 4.066436385478877 <= box < geolip(wine).value
    assert walk_bound(wine, norm=math.inf, domain=(-1, 1)).value <= 4.066436385478877 * (1 + 1e-9)
    assert geolip(wine, norm=1, domain=(-1, 1)).value >= 1.1475693398366684
