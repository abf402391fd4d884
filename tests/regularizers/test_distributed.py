"""Gradients averaged over two processes equal those of one process with the whole batch."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from lipnb.models import mlp
from lipnb.regularizers import adversarial_lipschitz_penalty, gradient_penalty

PROCESSES = 2


def network(batch_norm=False):
    g = torch.Generator().manual_seed(0)
    return mlp([3, 8, 1], nn.Tanh, batch_norm=batch_norm, generator=g, dtype=torch.float64)


def batch():
    """Points, starts of the search, radii: all fixed, so that a shard is a part of the whole."""
    g = torch.Generator().manual_seed(1)
    x, start = torch.randn(2, 8, 3, generator=g, dtype=torch.float64)
    return x, start, torch.linspace(0.1, 2.0, 8, dtype=torch.float64)


def alp(f, x, start, radius, output=None, xi=0.5):
    penalty = adversarial_lipschitz_penalty(
        f, x, output=output, lipschitz_constant=0.0, start=start, radius=radius, xi=xi
    )
    return penalty.loss


def gp(f, x):
    return gradient_penalty(f, x).loss


CASES = {
    "alp": lambda f, x, start, radius: alp(f, x, start, radius),
    "alp, xi = 0": lambda f, x, start, radius: alp(f, x, start, radius, xi=0.0),
    "loss and alp": lambda f, x, start, radius: (
        (y := f(x)).mean() + alp(f, x, start, radius, output=y)
    ),
    "loss and gp": lambda f, x, start, radius: f(x).mean() + gp(f, x),
    "gp alone": lambda f, x, start, radius: gp(f, x),
}


def gradients(f, loss):
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in f.parameters()]


def worker(rank, folder):
    """Compute every case on this process's shard, and save what comes out."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    shard = [part.chunk(PROCESSES)[rank] for part in batch()]
    found = {}
    for name, loss in CASES.items():
        f = DistributedDataParallel(network())
        found[name] = gradients(f, loss(f, *shard))
    normalised = DistributedDataParallel(network(batch_norm=True))
    normalised(shard[0])
    before = [b.clone() for b in normalised.buffers()]
    alp(normalised, *shard).backward()
    after = list(normalised.buffers())
    found["buffers kept"] = all(map(torch.equal, before, after))
    torch.save(found, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo looks the host's name up
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in range(PROCESSES))
    whole = batch()
    for name in ("alp", "alp, xi = 0", "loss and alp", "loss and gp"):
        f = network()
        wanted = gradients(f, CASES[name](f, *whole))
        torch.testing.assert_close(first[name], wanted)
        torch.testing.assert_close(second[name], wanted)
    assert first["buffers kept"] and second["buffers kept"]
    # The last bias has no second derivative. Its bucket is waited for in vain, and the gradients
    # stay those of each process's own shard.
    f = network()
    wanted = gradients(f, CASES["gp alone"](f, *whole))
    assert first["gp alone"][3] is None
    difference = (first["gp alone"][0] - wanted[0]).abs().max()
    assert difference > 1e-3 * wanted[0].abs().max()
    torch.testing.assert_close((first["gp alone"][0] + second["gp alone"][0]) / 2, wanted[0])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    other = multiprocessing.get_context("spawn").Process(target=worker, args=(1, folder))
    other.start()
    worker(0, folder)
    other.join()
    sys.exit(other.exitcode)
