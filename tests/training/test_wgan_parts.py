"""The parts of the training engine: bytes, files, gradient norms, devices, samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import lipnb.regularizers._network
from lipnb.data import load_digit_images
from lipnb.models import small_wgan_critic, small_wgan_generator
from lipnb.training.wgan import train_wgan
from lipnb.training.wgan_batches import to_bytes, to_floats
from lipnb.training.wgan_checkpoint import read_checkpoint, write_atomically, write_checkpoint
from lipnb.training.wgan_device import (
    DeviceOptions,
    bfloat16_error,
    capture,
    choose_device,
    float32_precision,
    require_capturable,
)
from lipnb.training.wgan_monitor import (
    gradient_norm_quantiles,
    image_grid,
    read_scalars,
    write_grid,
    write_scalars,
)
from lipnb.training.wgan_networks import sample_images
from lipnb.training.wgan_presets import METHODS, WganSettings, method_settings
from lipnb.training.wgan_steps import AlternatingSteps

TINY: dict[str, Any] = {
    "channels": 3,
    "generator_channels": 3,
    "latent": 2,
    "batch": 4,
    "generator_batch": 6,
    "critic_steps": 2,
    "iterations": 4,
}
DIGITS = load_digit_images()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- bytes ---------------------------------------------------------------------------------------


def test_every_byte_comes_back_from_its_interval() -> None:
    images = torch.arange(256).byte().view(256, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    x = to_floats(images, generator=seeded(0))
    assert -1 <= float(x.min()) < float(x.max()) <= 1
    inner = to_bytes(x)
    # The rounding of the source is 127.995 and not 128: the top of an interval may fall one lower.
    assert bool((inner <= images).all()) and bool((images.int() - inner <= 1).all())
    assert (inner == images).double().mean() > 0.98
    lowest = to_bytes(images.float() / 128 - 1 + 1 / 256)  # the middle of each interval
    assert torch.equal(lowest, images)
    ends = to_bytes(to_floats(images, dequantise=False)).int().flatten(1)[:, 0]
    assert bool((ends.diff() >= 0).all())
    assert (ends[0], ends[-1]) == (0, 255)
    noise = (x + 1) * 128 - images
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match=r"x must lie in \[-1, 1\]; got values from -1.0 to 1.5"):
        to_bytes(torch.tensor([-1.0, 1.5]))
    with pytest.raises(ValueError, match="x must lie in"):
        to_bytes(torch.tensor([float("nan")]))


def test_half_of_the_images_are_mirrored_left_to_right() -> None:
    images = torch.zeros(2000, 1, 2, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = 255
    x = to_floats(images, flip=True, dequantise=False, generator=seeded(0))
    mirrored = x[:, 0, 0, 2] == 1
    assert torch.equal(~mirrored, x[:, 0, 0, 0] == 1)
    assert 0.45 < float(mirrored.double().mean()) < 0.55
    assert bool((x[:, 0, 1] == -1).all())


# -- files ---------------------------------------------------------------------------------------


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("lipnb.training.wgan_checkpoint.os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]  # nothing is left behind


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_checkpoint(path, {"run": {"seed": 0}, "x": torch.arange(5.0)})
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"is damaged|does not begin like one"):
            read_checkpoint(path, {"seed": 0})
    path.write_bytes(whole)
    assert torch.equal(read_checkpoint(path, {"seed": 0})["x"], torch.arange(5.0))
    with pytest.raises(ValueError, match="rate is None there and 2 here; seed is 0 there and 1"):
        read_checkpoint(path, {"seed": 1, "rate": 2})
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none", {})
    with pytest.raises(ValueError, match="state must hold a dict 'run'; got None"):
        write_checkpoint(path, {"step": 1})


def test_a_checkpoint_with_code_in_it_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    write_checkpoint(tmp_path / "c", {"run": {}, "x": Bomb()})
    with pytest.raises(ValueError, match="more than tensors, numbers and words"):
        read_checkpoint(tmp_path / "c", {})
    assert not (tmp_path / "executed").exists()


def test_lines_and_grids_are_read_as_written(tmp_path: Path) -> None:
    lines = [{"step": 1, "gap": 0.1}, {"step": 2, "gap": -1e-30}]
    write_scalars(tmp_path / "s.jsonl", lines)
    assert read_scalars(tmp_path / "s.jsonl") == lines
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_scalars(tmp_path / "s.jsonl", [{"gap": float("nan")}])
    assert read_scalars(tmp_path / "s.jsonl") == lines
    (tmp_path / "s.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"s\.jsonl, line 2: wanted JSON"):
        read_scalars(tmp_path / "s.jsonl")
    images = torch.randint(256, (5, 3, 4, 2), generator=seeded(0)).byte()
    write_grid(tmp_path / "g.png", images)
    with Image.open(tmp_path / "g.png") as image:
        pixels = torch.tensor(list(image.tobytes())).view(image.height, image.width, 3)
    grid = image_grid(images)
    assert torch.equal(pixels.permute(2, 0, 1).byte(), grid)
    assert grid.shape == (3, 2 * 5 - 1, 3 * 3 - 1)
    assert torch.equal(grid[:, 5:9, 3:5], images[4])
    assert image_grid(images, columns=5).shape == (3, 4, 14)
    with pytest.raises(ValueError, match="images must be uint8"):
        image_grid(images.float())


# -- gradient norms and samples ------------------------------------------------------------------


def test_gradient_norms_are_those_of_each_image_also_with_batch_normalisation() -> None:
    critic = small_wgan_critic(4, batch_norm=True)
    x = torch.rand(9, 1, 8, 8, generator=seeded(0))
    with torch.no_grad():
        critic(2 * x)  # running statistics
    found = gradient_norm_quantiles(critic, x, [0.0, 0.5, 1.0])
    assert critic.training
    critic.eval()
    one_by_one = torch.stack(
        [torch.func.grad(lambda y: critic(y[None]).squeeze())(image).norm() for image in x]
    )
    wanted = one_by_one.double().quantile(torch.tensor([0, 0.5, 1], dtype=torch.float64))
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), wanted.detach(), rtol=1e-5, atol=0
    )
    with pytest.raises(ValueError, match="x must hold at least one image"):
        gradient_norm_quantiles(critic, x[:0])


def test_samples_use_the_statistics_asked_for_and_leave_the_generator_alone() -> None:
    generator = small_wgan_generator(4)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    running = sample_images(generator, 130, latent=16, sampling="running")
    batch = sample_images(generator, 130, latent=16, sampling="batch")
    assert running.shape == batch.shape == (130, 1, 8, 8)
    assert generator.training
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    z = torch.randn(100, 16, generator=seeded(3))
    with torch.no_grad():
        assert torch.equal(batch[:100], to_bytes(generator(z)))
        generator.load_state_dict(before)
        assert torch.equal(running[:100], to_bytes(generator.eval()(z)))
    assert not torch.equal(running, batch)
    assert not torch.equal(running, sample_images(generator, 130, latent=16, seed=1))
    with pytest.raises(ValueError, match="sampling must be 'running' or 'batch'"):
        sample_images(generator, 1, latent=16, sampling="ema")
    with pytest.raises(ValueError, match="n and batch must be at least 1; got 0"):
        sample_images(generator, 0, latent=16)


def test_averaged_weights_are_the_average_of_all_steps() -> None:
    settings = method_settings("standard", "alp", **TINY, average=0.75)
    weights = [next(train_wgan(settings, DIGITS, until=i).generator.parameters()) for i in (0, 4)]
    plain = method_settings("standard", "alp", **TINY)
    seen = [
        next(train_wgan(plain, DIGITS, until=i).generator.parameters()).detach() for i in range(5)
    ]
    mean = seen[0]
    for weight in seen[1:]:
        mean = 0.75 * mean + 0.25 * weight
    assert torch.equal(weights[0], seen[0])
    torch.testing.assert_close(weights[1].detach(), mean)
    assert not torch.allclose(mean, seen[4])
    # The running statistics of samples are the generator's last ones.
    buffers = [train_wgan(s, DIGITS, until=4).generator.buffers() for s in (settings, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))


# -- devices -------------------------------------------------------------------------------------


def test_channels_last_trains_to_the_same_numbers() -> None:
    settings = method_settings("standard", "alp", **TINY)
    plain = train_wgan(settings, DIGITS, log_every=4)
    last = train_wgan(
        settings, DIGITS, log_every=4, options=DeviceOptions("cpu", channels_last=True)
    )
    kernel = next(p for p in last.critic.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(plain.generator.parameters(), last.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    assert plain.history[0]["gap"] == pytest.approx(last.history[0]["gap"], abs=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler looks
@pytest.mark.parametrize("method", ["alp", "alp_batch_norm"])
def test_compiled_networks_train_to_the_same_numbers(method: str) -> None:
    settings = method_settings("standard", method, **TINY)
    plain = train_wgan(settings, DIGITS, log_every=4)
    compiled = DeviceOptions("cpu", compiler="aot_eager")
    torch.compiler.reset()  # networks of earlier tests may fit
    counters.clear()
    run = train_wgan(settings, DIGITS, log_every=4, options=compiled)
    assert counters["frames"]["ok"] >= 2  # critic and generator
    for network in ("critic", "generator"):
        a, b = (getattr(r, network).state_dict() for r in (plain, run))
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=2e-4)


@pytest.mark.parametrize("method", ["gp", "lp", "ct", "max_gp", "banach"])
def test_a_compiler_is_refused_where_second_derivatives_are_needed(method: str) -> None:
    settings = method_settings("standard", method, **TINY)
    with pytest.raises(ValueError, match="a compiled critic has no second derivatives"):
        train_wgan(settings, DIGITS, options=DeviceOptions("cpu", compiler="aot_eager"))


def test_an_unknown_compiler_is_named() -> None:
    with pytest.raises(ValueError, match=r"compiler must be one of .*; got 'gcc'"):
        DeviceOptions("cpu", compiler="gcc")


def test_bfloat16_is_measured_before_it_is_used() -> None:
    settings = method_settings("standard", "alp", **TINY, radius=(0.01, 10.0))
    rough = DeviceOptions("cpu", bfloat16=True)
    with pytest.raises(ValueError, match=r"bfloat16 must get the quotient at radius 0.01 right"):
        train_wgan(settings, DIGITS, options=rough)
    settings = method_settings("standard", "alp", **TINY, radius=(5.0, 10.0))
    options = DeviceOptions("cpu", bfloat16=True, tolerance=0.2)
    run = train_wgan(settings, DIGITS, options=options, log_every=4)
    assert 1e-5 < run.history[0]["bfloat16_error"] < 0.2
    assert {p.dtype for p in run.generator.parameters()} == {torch.float32}
    exact = train_wgan(settings, DIGITS, log_every=4)
    assert run.history[0]["gap"] == pytest.approx(exact.history[0]["gap"], rel=0.05, abs=0.01)
    assert run.history[0]["gap"] != exact.history[0]["gap"]


def test_the_error_of_bfloat16_grows_as_the_radius_shrinks() -> None:
    critic = small_wgan_critic(16, generator=seeded(1))
    x = 2 * torch.rand(100, 1, 8, 8, generator=seeded(0)) - 1
    errors = [bfloat16_error(critic, x, radius, seeded(2)) for radius in (10.0, 1.0, 0.1)]
    assert 0 < errors[0] < errors[1] < errors[2]
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    nn.init.zeros_(flat[1].weight)
    assert bfloat16_error(flat, x, 1.0, seeded(0)) == float("inf")


def test_switches_are_put_back() -> None:
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(KeyError), float32_precision(True):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        raise KeyError
    assert before == (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
    )


class _Asked(Exception):
    """The host was asked for a value on the device."""


class _NoQuestions(TorchDispatchMode):
    """Refuse what a CUDA graph cannot hold: reading a value, and shapes that depend on values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten.equal,
        ):
            raise _Asked(str(func))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def as_if_captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the penalties behave as under capture, where they neither look nor reseed."""
    with monkeypatch.context() as patch:
        for module in ("penalty", "pairs", "perturbation"):
            patch.setattr(f"lipnb.regularizers.{module}.readable", lambda x: False)
        network = lipnb.regularizers._network.FixedNetwork
        patch.setattr(network, "_random_numbers", lambda self: contextlib.nullcontext())
        yield


def questions(method: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> bool:
    """Tell whether one iteration of a method asks the host for a value."""
    settings = method_settings("standard", method, **{**TINY, **changes})
    monkeypatch.setattr(AlternatingSteps, "_update", lambda self, optimizer, number: None)
    trainer = AlternatingSteps(
        settings, DIGITS.images, 0, DeviceOptions("cpu"), torch.device("cpu")
    )
    trainer.stream.go_to(0)
    with as_if_captured(monkeypatch), _NoQuestions():
        try:
            trainer.iterate()
        except _Asked:
            return True
    return False


@pytest.mark.parametrize("method", list(METHODS))
def test_what_may_be_captured_asks_the_host_for_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = method_settings("standard", method)
    try:
        require_capturable(settings)
    except ValueError:
        assert method in ("clip", "sn", "ct")
        return
    assert not questions(method, monkeypatch)


def test_a_question_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert questions("clip", monkeypatch)
    with pytest.raises(_Asked), _NoQuestions():
        bool(torch.ones(()).isfinite())


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device(DeviceOptions()).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="a CUDA graph needs a CUDA device; got 'cpu'"):
        choose_device(DeviceOptions("cpu", graph=True))
    with pytest.raises(ValueError, match="tolerance must be positive and finite; got 0"):
        DeviceOptions(tolerance=0)
    with pytest.raises(ValueError, match=r"got objective 'sn', dropout, worst_points"):
        require_capturable(WganSettings(objective="sn", dropout=(0.5,), worst_points=3))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds no CUDA device"):
            choose_device(DeviceOptions("cuda"))
        with pytest.raises(RuntimeError, match="torch finds none"):
            capture(lambda: None, seeded(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_graph_trains_like_the_eager_loop() -> None:
    settings = method_settings("standard", "alp", **{**TINY, "iterations": 20})
    runs = [
        train_wgan(settings, DIGITS, log_every=20, options=DeviceOptions("cuda", graph=graph))
        for graph in (False, True)
    ]
    eager, graph = (next(run.generator.parameters()).cpu() for run in runs)
    start: Tensor = next(train_wgan(settings, DIGITS, until=0).generator.parameters())
    # Random numbers differ between the two; both must have moved by the same order.
    moved = [float((p - start).norm()) for p in (eager, graph)]
    assert 0.3 < moved[0] / moved[1] < 3
