"""A training that is killed, really killed, ends as if nothing had happened."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lipnb.training.wgan_command import main

TINY = {
    "channels": 3,
    "generator_channels": 3,
    "latent": 2,
    "batch": 4,
    "generator_batch": 6,
    "critic_steps": 2,
    "learning_rate": 1e-2,
}
KILLED = """
import sys
from lipnb.training.wgan_command import main
sys.exit(main(sys.argv[1:]))
"""


def arguments(output: Path, iterations: int) -> list[str]:
    found = ["--preset", "author_code", "--data", "digits", "--output", str(output)]
    for name, value in {**TINY, "iterations": iterations}.items():
        found += ["--set", name, str(value)]
    return [*found, "--checkpoint-every", "2", "--log-every", "3", "--quiet", "--resume"]


def test_a_killed_process_resumes_bit_for_bit(
    tmp_path: Path, differing: Callable[[Any, Any], list[str]]
) -> None:
    """SIGKILL at two moments that nothing in the process foresees."""
    steps = 80
    words = arguments(tmp_path / "killed", steps)
    path = tmp_path / "killed" / "checkpoint.pt"
    killed, before = 0, b""
    while killed < 2:
        process = subprocess.Popen([sys.executable, "-c", KILLED, *words])
        try:
            patience = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < patience:
                if path.exists() and path.read_bytes() != before:
                    time.sleep(0.03 * (1 + killed))
                    break
                time.sleep(0.002)
            assert process.poll() is None, "it ended before it could be killed"
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        before = path.read_bytes()
        killed += 1
    assert main(words) == 0
    assert main(arguments(tmp_path / "whole", steps)) == 0
    one, other = (
        torch.load(_body(tmp_path / name / "checkpoint.pt"), weights_only=True)
        for name in ("killed", "whole")
    )
    assert one["step"] == other["step"] == steps
    assert differing(one, other) == ["seconds"]
    lines = [(tmp_path / name / "scalars.jsonl").read_bytes() for name in ("killed", "whole")]
    assert lines[0] == lines[1]


def _body(path: Path) -> io.BytesIO:
    """What follows the line with the digest."""
    return io.BytesIO(path.read_bytes().partition(b"\n")[2])
