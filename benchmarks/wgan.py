"""Iterations per second of the image engine: precision, memory format, compiler, graph; in one run.

An iteration is what `train_wgan` does between two lines of its log: several steps of the critic and
one of the generator, images drawn, flipped and dequantised on the device. The images are noise,
which costs the same as photographs. The variants take turns in random order; each turn is divided
by that of the straightforward loop (eager, float32) in the same round, and the median over rounds
is printed with the lowest and the highest. Operations are counted by shapes, those of convolutions
and matrix products only. The peak is measured, as one large product of matrices in the precision of
the variant; the last column is the share of it that the variant reaches.

On a GPU the settings are those of the paper. On a CPU they are narrow, only to show that the
benchmark runs, and what has no effect there (TF32, graph) is left out. "bf16 error" is the relative
error of the quotient at the smallest radius of the search, of a critic that is not trained:
`train_wgan` refuses bfloat16 above 0.05.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
from torch import Tensor

from lipnb.flops import count_flops
from lipnb.training.wgan_batches import seeded_stream, to_floats
from lipnb.training.wgan_device import (
    DeviceOptions,
    bfloat16_error,
    choose_device,
    float32_precision,
    many_compilations,
)
from lipnb.training.wgan_presets import METHODS, WganSettings, method_settings
from lipnb.training.wgan_steps import AlternatingSteps

VARIANTS = {
    "eager float32": {},
    "channels last": {"channels_last": True},
    "TF32": {"tf32": True},
    "TF32, channels last": {"tf32": True, "channels_last": True},
    "TF32, compiled": {"tf32": True, "compiler": "inductor"},
    "TF32, channels last, graph": {"tf32": True, "channels_last": True, "graph": True},
    "bfloat16": {"bfloat16": True, "channels_last": True},
    "bfloat16, graph": {"bfloat16": True, "channels_last": True, "graph": True},
}
ON_CPU = {
    "eager float32": {},
    "channels last": {"channels_last": True},
    "compiled": {"compiler": "inductor"},
}
NARROW = {"channels": 8, "generator_channels": 8, "batch": 8, "generator_batch": 8}
WARM_UP = 6  # a graph is captured after three


def seconds(steps: AlternatingSteps, first: int, n: int, options: DeviceOptions) -> float:
    """Time of n iterations from number `first` on: CPU time on a CPU."""
    cuda = steps.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    with float32_precision(options.tf32), many_compilations(options.compiler):
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        for step in range(first, first + n):
            steps.advance(step)
        if cuda:
            torch.cuda.synchronize()
    if not bool(steps.finite):
        raise SystemExit(f"{options}: a loss is not finite")
    return (clock() - start) / n


def peak(options: DeviceOptions, device: torch.device) -> float:
    """Operations a second of one large product, the best of five."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device, generator=seeded_stream(0, 7, device))
    a = a.bfloat16() if options.bfloat16 else a
    times = []
    with float32_precision(options.tf32):
        for _ in range(6):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            a @ a
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times[1:])


def quotient_error(steps: AlternatingSteps, images: Tensor, settings: WganSettings) -> float:
    """Relative error of the quotient at the smallest radius in bfloat16."""
    g = seeded_stream(0, 5, steps.device)
    x = to_floats(images[:100].to(steps.device), dequantise=False)
    return bfloat16_error(steps.critic, x, settings.radius[0], g)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--method", default="alp", choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=0, help="of a turn")
    given = parser.parse_args()
    device = choose_device(DeviceOptions(given.device))
    cuda = device.type == "cuda"
    torch.set_num_threads(1)
    settings = method_settings("paper", given.method, **({} if cuda else NARROW))
    n = given.iterations or (30 if cuda else 2)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2048, 3, 32, 32), dtype=torch.uint8, generator=g)

    built: dict[str, tuple[DeviceOptions, AlternatingSteps]] = {}
    for name, choice in (VARIANTS if cuda else ON_CPU).items():
        options = DeviceOptions(given.device, **choice)
        try:
            steps = AlternatingSteps(settings, images, 0, options, device)
            seconds(steps, 0, WARM_UP, options)
        except ValueError as error:
            print(f"{name}: left out, {error}")
            continue
        built[name] = options, steps

    plain = built["eager float32"][1]
    flops = count_flops(lambda: plain.iterate())
    where = torch.cuda.get_device_name(device) if cuda else "one CPU thread"
    print(f"{where}, torch {torch.__version__}, {given.method}, batch {settings.batch},")
    print(f"channels {settings.channels}, {flops / 1e12:.4f} TFLOP an iteration")
    times: dict[str, list[float]] = {name: [] for name in built}
    order, done = list(built), WARM_UP
    for turn in range(given.rounds):
        random.Random(turn).shuffle(order)
        for name in order:
            options, steps = built[name]
            times[name].append(seconds(steps, done, n, options))
        done += n

    print("variant                      it/s   ratio (lowest to highest)  TFLOP/s   of the peak")
    base = times["eager float32"]
    for name, (options, _) in built.items():
        ratios = [b / t for b, t in zip(base, times[name], strict=True)]
        rate = 1 / statistics.median(times[name])
        best = peak(options, device)
        print(
            f"{name:27s} {rate:6.2f}  {statistics.median(ratios):5.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}) {flops * rate / 1e12:15.3f}"
            f" {flops * rate / best:12.1%}",
            flush=True,
        )
    error = quotient_error(plain, images, settings)
    print(f"bf16 error at radius {settings.radius[0]:g}: {error:.3f}")


if __name__ == "__main__":
    main()
