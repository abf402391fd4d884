"""The toy: its truth, its training against a plain loop, resuming, recording."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import lipnb.training.toy
from lipnb.records import read_record, snapshot
from lipnb.regularizers import adversarial_lipschitz_penalty, gradient_penalty
from lipnb.training.toy import PANELS, WIDTHS, Panel, Settings, _generator, train_toy
from lipnb.training.toy_figure import load_networks, record_figure, train_figure
from lipnb.training.toy_problem import grid, optimum, paper_optimum, surface_metrics, target

SHORT = Settings(iterations=70, batch=32, regularization_batch=64)
ALP = "adversarial_lipschitz_penalty"


def networks_equal(one, other, **tolerance):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def test_there_are_fourteen_panels_with_names_of_their_own():
    assert len(PANELS) == len({p.name for p in PANELS}) == 14


def test_loss_of_both_optima_is_the_derived_one():
    x = grid(2000)
    cell = 64 / len(x)
    mine = (optimum(x)[0] - target(x)).square().sum().item() * cell
    papers = (paper_optimum(x)[0] - target(x)).square().sum().item() * cell
    assert papers == pytest.approx(math.pi / 2, abs=1e-3)
    assert mine == pytest.approx(1.554258, abs=1e-3)
    assert mine < papers - 0.015


@pytest.mark.parametrize("function", [optimum, paper_optimum])
def test_optima_are_one_lipschitz_and_report_their_slope(function):
    x = grid(300)
    value, slope = (part.view(300, 300) for part in function(x))
    step = 8 / 300
    down, right = value.diff(dim=0)[:, :-1] / step, value.diff(dim=1)[:-1] / step
    assert max(down.abs().max(), right.abs().max()) <= 1 + 1e-9
    # Away from kinks the difference quotient is the slope.
    near = (torch.hypot(down, right) - slope[:-1, :-1]).abs() < 0.05
    assert near.double().mean() > 0.93
    assert (
        (torch.hypot(down, right) - 1).abs() < 0.05
    ).double().mean() < 0.35  # not slope 1 everywhere


def plain_loop(panel, seed, settings):
    """Train one network with nn.Sequential, the library's penalties and torch's own Adam."""
    stack = train_toy([panel], [seed], replace(settings, iterations=0)).stack
    layers = []
    for w, b in zip(stack.weights, stack.biases, strict=True):
        layers += [nn.Linear(w.shape[2], w.shape[1], dtype=torch.float64), nn.ReLU()]
        layers[-2].weight.data.copy_(w[0])
        layers[-2].bias.data.copy_(b[0, :, 0])
    net = nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(net.parameters(), settings.learning_rate)
    n, m = settings.batch, settings.regularization_batch
    for step in range(settings.iterations):
        if step % 64 == 0:
            g = _generator(seed, 1 + step // 64)
            xs = (2 * torch.rand(64, n, 2, generator=g, dtype=torch.float64) - 1) * 4
            zs = (2 * torch.rand(64, m, 2, generator=g, dtype=torch.float64) - 1) * 4
            noise = torch.randn(64, m, 2, generator=g)
            low, high = settings.radius
            radius = low + (high - low) * torch.rand(64, m, generator=g)
        i = step % 64
        loss = (net(xs[i]).squeeze(1) - target(xs[i])).square().mean()
        if panel.method == "lipschitz_penalty":
            loss = loss + panel.weight * gradient_penalty(net, zs[i], one_sided=True).loss
        if panel.method == ALP:
            penalty = adversarial_lipschitz_penalty(
                net,
                zs[i],
                radius=radius[i].double(),
                xi=settings.xi,
                steps=panel.steps,
                start=noise[i].double(),
            )
            loss = loss + panel.weight * penalty.loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    return net


@pytest.mark.parametrize(
    "panel", [Panel("none"), Panel("lipschitz_penalty", 10.0), Panel(ALP, 10.0, 1)]
)
def test_stack_trains_like_a_plain_loop(panel):
    settings = replace(SHORT, learning_rate=0.1)  # soon steep enough for violations
    run = train_toy([panel, replace(panel, weight=panel.weight + 1)], [3, 4], settings)
    net = plain_loop(panel, 4, settings)
    x = grid(40)
    mine = run.stack(x.expand(4, -1, -1))[run.labels.index((panel, 4))]
    # The search runs in float32: directions differ by rounding, and what follows by a little more.
    torch.testing.assert_close(mine, net(x).squeeze(1).detach(), rtol=0, atol=2e-5)
    if panel.weight:
        assert run.violations.max() > 0
        unpenalised = plain_loop(Panel("none"), 4, settings)
        assert (mine - unpenalised(x).squeeze(1)).abs().max() > 5e-4  # sabotage: penalty off


@pytest.mark.parametrize("panel", [Panel("spectral_norm"), Panel(ALP, 1.0, 1)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_network_is_the_same_whoever_is_trained_beside_it(panel, batch_norm):
    settings = replace(SHORT, batch_norm=batch_norm)
    alone = train_toy([panel], [4], settings)
    together = train_toy([panel], [3, 4], settings)
    x = grid(20)
    torch.testing.assert_close(
        alone.stack(x.expand(1, -1, -1))[0],
        together.stack(x.expand(2, -1, -1))[1],
        rtol=0,
        atol=1e-8,
    )


@pytest.mark.parametrize("method", ["spectral_norm", ALP])
def test_resumed_run_is_bit_identical(tmp_path, monkeypatch, method):
    settings = replace(SHORT, iterations=1100, batch=8, regularization_batch=8, batch_norm=True)
    panel = Panel(method, 1.0, 1 if method == ALP else 0)
    whole = train_toy([panel], [0], settings)
    path = tmp_path / "run.pt"

    class Killed(Exception):
        pass

    update = lipnb.training.toy._Trainer.update

    def dying(self, step):
        if step == 1090:
            raise Killed
        update(self, step)

    monkeypatch.setattr(lipnb.training.toy._Trainer, "update", dying)
    with pytest.raises(Killed):
        train_toy([panel], [0], settings, checkpoint=path)
    monkeypatch.undo()
    resumed = train_toy([panel], [0], settings, checkpoint=path)
    networks_equal(whole.stack, resumed.stack)
    assert torch.equal(whole.loss, resumed.loss)
    assert resumed.seconds > torch.load(path, weights_only=True)["seconds"] > 0
    with pytest.raises(ValueError, match="another run"):
        train_toy([panel], [1], settings, checkpoint=path)


def test_seeds_differ_in_weights_and_in_data():
    start = train_toy([Panel("none")], [0, 1, 2], replace(SHORT, iterations=0)).stack
    for weight in start.weights:
        assert (weight[0] - weight[1]).abs().min() > 0 and (weight[1] - weight[2]).abs().max() > 0
    draws = [
        torch.rand(8, generator=_generator(seed, stream))
        for seed in range(9)
        for stream in range(9)
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 81
    run = train_toy([Panel("lipschitz_penalty", 1.0)], [0, 1], replace(SHORT, learning_rate=0.1))
    assert (run.loss[:, 0] != run.loss[:, 1]).all()


def test_spectrally_normalised_networks_are_one_lipschitz():
    stack = train_toy([Panel("spectral_norm")], [0, 1], SHORT).stack
    for weight in stack.weights:
        torch.testing.assert_close(
            torch.linalg.matrix_norm(weight, 2), torch.ones(2, dtype=torch.float64)
        )
    assert all(row["max_gradient"] <= 1 for row in surface_metrics(stack, 50))


def test_non_finite_loss_stops_the_run():
    with pytest.raises(FloatingPointError, match="update"):
        train_toy([Panel("none")], [0], replace(SHORT, optimizer="sgd", learning_rate=1e30))


def test_errors():
    with pytest.raises(ValueError, match="share one method"):
        train_toy([Panel("none"), Panel("spectral_norm")], [0], SHORT)
    with pytest.raises(ValueError, match="optimizer must be"):
        train_toy([Panel("none")], [0], replace(SHORT, optimizer="rmsprop"))
    with pytest.raises(ValueError, match="resolution"):
        grid(0)
    with pytest.raises(ValueError, match="seed must be"):
        train_toy([Panel("none")], [-1], SHORT)
    with pytest.raises(ValueError, match="seed must be"):
        train_toy([Panel("none")], [4096], SHORT)


def test_records_and_networks_go_round(tmp_path):
    cases = [(Panel("none"), True), (Panel(ALP, 1.0, 1), False)]
    runs = train_figure(cases, [0, 1], SHORT, processes=1)
    code = snapshot([lipnb.training.toy])
    paths = record_figure(runs, folder=tmp_path, code=code)
    assert len(paths) == 6
    record = read_record(tmp_path / "toy" / "alp-k1-lambda1-seed1.json")
    networks = load_networks(tmp_path, 1)
    assert set(networks) == {"none-bn", "alp-k1-lambda1"}
    again = surface_metrics(networks["alp-k1-lambda1"])[0]
    for name, value in again.items():
        assert value == pytest.approx(record["metrics"][name]["value"], abs=1e-4)
    assert record["parameters"]["widths"] == list(WIDTHS)
    assert 0 <= record["metrics"]["violations"]["value"] <= 1
    assert (
        "violations"
        not in json.loads((tmp_path / "toy" / "none-bn-seed0.json").read_text())["metrics"]
    )
    with pytest.raises(FileNotFoundError, match="seed 7"):
        load_networks(tmp_path, 7)
    np.savez(tmp_path / "toy" / "networks-seed1.npz", **{"none/weight0": np.zeros(3)})
    with pytest.raises(ValueError, match="must hold none/weight1"):
        load_networks(tmp_path, 1)
