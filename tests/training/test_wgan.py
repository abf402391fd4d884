"""lipnb.training.wgan: a plain loop again, kill and resume, what is refused, what is logged."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipnb.data import ImageData, load_digit_images
from lipnb.regularizers import adversarial_lipschitz_penalty
from lipnb.training.wgan import train_wgan
from lipnb.training.wgan_batches import ImageStream, seeded_stream
from lipnb.training.wgan_command import main
from lipnb.training.wgan_device import DeviceOptions
from lipnb.training.wgan_monitor import EventLog, read_scalars
from lipnb.training.wgan_networks import WganRun, build_networks
from lipnb.training.wgan_presets import METHODS, WganSettings, method_settings
from lipnb.training.wgan_steps import AlternatingSteps, learning_rates

TINY: dict[str, Any] = {
    "channels": 3,
    "generator_channels": 3,
    "latent": 2,
    "batch": 4,
    "generator_batch": 6,
    "critic_steps": 2,
    "iterations": 12,
    "learning_rate": 1e-2,
}
DIGITS = load_digit_images()
Compare = Callable[[Any, Any], list[str]]


def tiny(method: str = "alp", preset: str = "standard", **changes: Any) -> WganSettings:
    return method_settings(preset, method, **{**TINY, **changes})


def state_of(run: WganRun) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, network in (("critic", run.critic), ("generator", run.generator))
        for key, value in network.state_dict().items()
    }


def assert_equal_runs(one: WganRun, other: WganRun) -> None:
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert one.history == other.history
    assert one.step == other.step


def plain_loop(settings: WganSettings, seed: int, weight: float) -> nn.Module:
    """The algorithm again, in a few lines, for ALP with the generator after the critic."""
    s = settings
    critic, generator = build_networks(s, DIGITS.shape, seed)
    options: dict[str, Any] = {"lr": s.learning_rate, "betas": s.betas}
    adam_f = torch.optim.Adam(critic.parameters(), **options)
    adam_g = torch.optim.Adam(generator.parameters(), **options)
    g = seeded_stream(seed, 1)
    n, block = s.batch, s.batch * s.critic_steps
    order = torch.randperm(len(DIGITS), generator=seeded_stream(seed, 16))
    for step in range(s.iterations):
        for adam in (adam_f, adam_g):
            adam.param_groups[0]["lr"] = s.learning_rate * (1 - step / s.iterations)
        for j in range(s.critic_steps):
            rows = order[step * block + j * n : step * block + (j + 1) * n]
            real = DIGITS.images[rows].float()
            coin = torch.rand(n, 1, 1, 1, generator=g) < 0.5
            real = torch.where(coin, real.flip(3), real)
            real = (real + torch.rand(real.shape, generator=g)) / 128 - 1
            fake = generator(torch.randn(n, s.latent, generator=g)).detach()
            x = torch.cat([real, fake])
            output = critic(x)
            penalty = adversarial_lipschitz_penalty(
                critic, x, lipschitz_constant=0.05, radius=s.radius, generator=g
            )
            loss = output[n:].mean() - output[:n].mean() + weight * penalty.loss
            adam_f.zero_grad()
            loss.backward()
            adam_f.step()
        loss = -critic(generator(torch.randn(s.generator_batch, s.latent, generator=g))).mean()
        adam_g.zero_grad()
        loss.backward()
        adam_g.step()
    return generator


def test_it_trains_like_a_plain_loop() -> None:
    settings = tiny(iterations=6, weight=30.0, lipschitz_constant=0.05)
    run = train_wgan(settings, DIGITS, seed=3, log_every=6)
    z = torch.randn(5, settings.latent, generator=seeded_stream(0, 0))
    mine = run.generator(z)
    torch.testing.assert_close(mine, plain_loop(settings, 3, 30.0)(z), rtol=0, atol=2e-5)
    assert run.history[0]["violations"] > 0
    # Sabotage: without the penalty the loop ends elsewhere.
    assert (mine - plain_loop(settings, 3, 0.0)(z)).abs().max() > 1e-3


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_trains_and_moves_both_networks(method: str) -> None:
    settings = tiny(method, iterations=2)
    run = train_wgan(settings, DIGITS, seed=1, log_every=1)
    start = build_networks(settings, DIGITS.shape, 1)
    for network, fresh in zip((run.critic, run.generator), start, strict=True):
        moved = [
            not torch.equal(a, b)
            for a, b in zip(network.parameters(), fresh.parameters(), strict=True)
        ]
        # A last bias adds to f(x) what it adds to f(g(z)): its gradient is rounding.
        assert sum(moved) >= len(moved) - 1
    line = run.history[-1]
    assert ("violations" in line) == (settings.objective not in ("none", "clip", "sn"))
    assert line["gradient_norm_real_1"] >= line["gradient_norm_real_0.5"] > 0
    if settings.objective == "clip":
        assert max(float(p.detach().abs().max()) for p in run.critic.parameters()) <= 0.01 + 1e-9


STATEFUL = {
    "alp": tiny("alp", "author_code", split="train"),
    "max_gp": tiny("max_gp", worst_points=3),
    "ct": tiny("ct"),
    "sn": tiny("sn"),
    "banach": tiny("banach", average=0.9),
    "clip": tiny("clip"),
    "gp_batch_norm": tiny("gp_batch_norm"),
}


@pytest.mark.parametrize("name", list(STATEFUL))
def test_a_run_in_parts_ends_bit_for_bit_like_one_in_one(name: str, tmp_path: Path) -> None:
    settings = replace(STATEFUL[name], iterations=7)
    options: dict[str, Any] = {"seed": 2, "log_every": 2, "checkpoint_every": 3}
    whole = train_wgan(settings, DIGITS, **options)
    for stop in (3, 4, 7):
        part = train_wgan(settings, DIGITS, output=tmp_path, resume=True, until=stop, **options)
    assert_equal_runs(whole, part)
    assert read_scalars(tmp_path / "scalars.jsonl") == whole.history
    assert [line["step"] for line in whole.history] == [2, 4, 6, 7]
    other = train_wgan(settings, DIGITS, **{**options, "seed": 3})
    assert other.history != whole.history


@pytest.mark.parametrize("name", list(STATEFUL))
def test_a_state_holds_everything_that_changes(name: str, differing: Compare) -> None:
    made = []
    with torch.random.fork_rng():
        for seed in (1, 2):
            steps = AlternatingSteps(
                STATEFUL[name], DIGITS.images, seed, DeviceOptions("cpu"), torch.device("cpu")
            )
            made.append(steps)
            for step in range(3 * seed):
                steps.advance(step)
        kept = copy.deepcopy(made[0].state())
        other = made[1].state()
        changed = {key for key in kept if differing(kept[key], other[key])}
        assert {"critic", "generator", "optimizers", "noise", "sums"} <= changed
        assert ("scale" in changed) == (name == "banach")
        assert ("worst" in changed) == (name == "max_gp")
        assert ("average" in changed) == (name == "banach")
        assert ("peak" in changed) == (name not in ("sn", "clip"))
        made[1].load(kept)
        assert differing(kept, made[1].state()) == []


def test_a_generator_step_moves_nothing_in_the_critic() -> None:
    """Two passes of the critic a step, real and generated; the generator's pass does not count."""
    run = train_wgan(tiny("alp_batch_norm", iterations=4), DIGITS)
    layers = [m for m in run.critic.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {int(m.num_batches_tracked or 0) for m in layers} == {2 * 2 * 4}


def arguments(output: Path, iterations: int) -> list[str]:
    found = ["--preset", "author_code", "--data", "digits", "--output", str(output)]
    for name, value in {**TINY, "iterations": iterations}.items():
        found += ["--set", name, str(value)]
    return [*found, "--checkpoint-every", "2", "--log-every", "3", "--quiet", "--resume"]


def _body(path: Path) -> io.BytesIO:
    """What follows the line with the digest."""
    return io.BytesIO(path.read_bytes().partition(b"\n")[2])


def test_a_foreign_a_damaged_and_an_unwanted_checkpoint_are_refused(tmp_path: Path) -> None:
    settings = tiny(iterations=3)
    train_wgan(settings, DIGITS, output=tmp_path, until=2)
    with pytest.raises(ValueError, match="is there already: resume the run"):
        train_wgan(settings, DIGITS, output=tmp_path)
    with pytest.raises(ValueError, match=r"another run: seed is 0 there and 5 here$"):
        train_wgan(settings, DIGITS, output=tmp_path, seed=5, resume=True)
    with pytest.raises(ValueError, match=r"another run: weight is 100.0 there and 3.0 here$"):
        train_wgan(replace(settings, weight=3.0), DIGITS, output=tmp_path, resume=True)
    fewer = ImageData(DIGITS.name, DIGITS.images[:-1], DIGITS.labels[:-1], DIGITS.classes)
    with pytest.raises(ValueError, match="another run: data_sha256 is"):
        train_wgan(settings, fewer, output=tmp_path, resume=True)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    for broken in (content[:-7], content[:5000] + b"\0" + content[5001:]):
        assert broken != content
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
            train_wgan(settings, DIGITS, output=tmp_path, resume=True)
    torch.save({"step": 1}, path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of lipnb"):
        train_wgan(settings, DIGITS, output=tmp_path, resume=True)
    path.write_bytes(content)
    assert train_wgan(settings, DIGITS, output=tmp_path, resume=True).step == 3
    with pytest.raises(ValueError, match="resume needs an output folder"):
        train_wgan(settings, DIGITS, resume=True)


def test_a_loss_that_is_not_finite_stops_with_a_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AlternatingSteps._generator_step

    def poisoned(self: Any) -> None:
        step(self)
        if int(self.stream.position) == 4:
            next(self.generator.parameters()).data[0, 0] = float("nan")

    monkeypatch.setattr(AlternatingSteps, "_generator_step", poisoned)
    for method in ("alp", "none"):
        output = tmp_path / method
        wanted = (
            r"not finite in iteration 6: .*not finite: .*generator \d+ of 16 \(0\.weight first\)"
            r".*last good checkpoint: .*checkpoint\.pt"
        )
        with pytest.raises(FloatingPointError, match=wanted):
            train_wgan(tiny(method), DIGITS, output=output, checkpoint_every=2)
        saved = torch.load(_body(output / "checkpoint.pt"), weights_only=True)
        assert saved["step"] == 4
    # Without a folder nothing is claimed about a checkpoint.
    with pytest.raises(FloatingPointError, match=r"last good checkpoint: none$"):
        train_wgan(tiny("none"), DIGITS)


def test_a_huge_learning_rate_is_diagnosed_too() -> None:
    settings = tiny("none", learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="not finite in iteration"):
        train_wgan(settings, DIGITS)


def test_the_shared_counter_is_that_of_one_adam_for_both() -> None:
    settings = tiny("alp", "author_code", critic_steps=5, iterations=100, learning_rate=1.0)
    first = learning_rates(settings, 0)
    assert first[:5] == [1.0] * 5  # the critic's first steps count the same either way
    assert first[5] == pytest.approx(((1 - 0.9**6) / (1 - 0.9)) ** 0.5)  # 2.2 times as large
    late = learning_rates(settings, 99)
    assert late == pytest.approx([0.01] * 6, rel=1e-4)
    constant = learning_rates(replace(settings, decay="constant"), 99)
    assert constant == pytest.approx([1.0] * 6, rel=1e-4)


def test_the_first_iteration_has_no_generator_step_where_the_generator_comes_first() -> None:
    settings = tiny("gp", "gulrajani", iterations=2)
    fresh = build_networks(settings, DIGITS.shape, 0)[1]
    once = train_wgan(settings, DIGITS, until=1)
    twice = train_wgan(settings, DIGITS, until=2)
    first, second = (next(run.generator.parameters()) for run in (once, twice))
    assert torch.equal(first, next(fresh.parameters()))
    assert not torch.equal(first, second)


def test_running_statistics_move_where_the_settings_say() -> None:
    """Of two critic passes and one generator pass an iteration, three or one are counted."""
    for statistics, count in (("every_pass", 3), ("generator_step", 1)):
        run = train_wgan(tiny(iterations=4, statistics=statistics), DIGITS)
        layers = [m for m in run.generator.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {int(m.num_batches_tracked) for m in layers} == {4 * count}


def test_a_time_limit_stops_with_a_checkpoint(tmp_path: Path) -> None:
    run = train_wgan(tiny(), DIGITS, output=tmp_path, limit_seconds=0.0)
    assert run.step == 1
    again = train_wgan(tiny(), DIGITS, output=tmp_path, resume=True)
    assert again.step == 12
    assert again.seconds > run.seconds


def test_the_command_line_trains_and_says_what_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(tmp_path, 4)
    assert main([*words, "--until", "2", "--sample-every", "2"]) == 3
    assert main(words) == 0
    assert "4 of 4 iterations" in capsys.readouterr().out
    assert (tmp_path / "samples-000002.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["objective"], settings["iterations"], settings["betas"]) == (
        "alp", 4, [0.0, 0.9],
    )  # fmt: skip
    for more, message in (
        (["--seed", "1"], "seed is 0 there and 1 here"),
        (["--set", "lambda", "3"], "settings must be among"),
        (["--graph"], "a CUDA graph needs a CUDA device; got"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*words, *more])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--preset", "paper", "--data", "mnist", "--output", str(tmp_path / "b")])
    assert "data must be digits, cifar10:FOLDER or folder:FOLDER" in capsys.readouterr().err


def test_a_progress_bar_shows_rate_and_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    train_wgan(tiny(iterations=3), DIGITS, log_every=1, progress=True)
    shown = capsys.readouterr().err
    assert "alp seed 0" in shown
    assert "3/3" in shown
    assert "it/s" in shown or "s/it" in shown
    assert "gap=" in shown


def test_bad_numbers_and_images_are_refused() -> None:
    with pytest.raises(ValueError, match="until must lie from 0 to 12; got 13"):
        train_wgan(tiny(), DIGITS, until=13)
    with pytest.raises(ValueError, match="must be at least 1; got 0, 1000, 1000"):
        train_wgan(tiny(), DIGITS, log_every=0)
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 4095"):
        train_wgan(tiny(), DIGITS, seed=-1)
    with pytest.raises(ValueError, match="an iteration takes 2000 images"):
        train_wgan(tiny(batch=1000), DIGITS)
    wide = ImageData("wide", torch.zeros(20, 1, 8, 9).byte(), torch.zeros(20).long(), ("x",))
    with pytest.raises(ValueError, match=r"images must have shape \(3, 32, 32\) or"):
        train_wgan(tiny(), wide)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    stream = ImageStream(images, 5, seed=1)
    epochs = []
    for step in range(6):
        stream.go_to(step)
        epochs.append(stream.take().flatten().tolist())
    orders = [epochs[i] + epochs[i + 1] for i in (0, 2, 4)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    stream.go_to(3)  # back into the second epoch
    assert stream.take().flatten().tolist() == epochs[3]
    other = ImageStream(images, 5, seed=2)
    other.go_to(0)
    assert other.take().flatten().tolist() != epochs[0]


def test_the_global_generator_stays_as_it_was() -> None:
    before = torch.get_rng_state()
    train_wgan(tiny("ct", iterations=1), DIGITS)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("method", ["alp", "gp", "ct", "sn", "alp_batch_norm"])
def test_images_of_32_pixels_train_the_networks_of_wgan_gp(method: str) -> None:
    images = torch.randint(256, (16, 3, 32, 32), generator=seeded_stream(0, 9)).byte()
    data = ImageData("noise", images, torch.zeros(16).long(), ("noise",))
    settings = tiny(method, iterations=2)
    run = train_wgan(settings, data, log_every=2)
    fresh = build_networks(settings, data.shape, 0)
    for network, start in zip((run.critic, run.generator), fresh, strict=True):
        first, before = (next(n.parameters()).detach() for n in (network, start))
        assert float((first - before).abs().max()) > 1e-4
    assert run.sample(3).shape == (3, 3, 32, 32)
    # Methods that differentiate gradients do so with lean layers, which have the same weights.
    lean = [m for m in run.critic.modules() if type(m).__name__ == "LeanReLU"]
    assert bool(lean) == (method in ("gp", "ct"))


def test_tensorboard_shows_the_log_and_what_a_resumed_run_did_again_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = method_settings("standard", "alp", **TINY)
    options: dict[str, Any] = {"log_every": 1, "sample_every": 2, "checkpoint_every": 2}
    options |= {"output": tmp_path, "tensorboard": True, "resume": True}
    train_wgan(settings, DIGITS, until=3, **options)
    # A checkpoint of an earlier iteration is what a run that was killed leaves.
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    train_wgan(settings, DIGITS, until=4, **options)
    (tmp_path / "checkpoint.pt").write_bytes(kept)
    run = train_wgan(settings, DIGITS, until=4, **options)
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    for name in ("gap", "gradient_norm_real/0.5", "violations"):
        wanted = [line[name.replace("/", "_")] for line in run.history]
        assert [event.step for event in found.Scalars(name)] == [1, 2, 3, 4]
        assert [event.value for event in found.Scalars(name)] == pytest.approx(wanted, rel=1e-6)
    assert [image.step for image in found.Images("samples")] == [2, 4]
    with pytest.raises(ValueError, match="tensorboard needs an output folder; got none"):
        train_wgan(settings, DIGITS, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="events need the package tensorboard"):
        EventLog(tmp_path)
