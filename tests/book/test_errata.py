"""The numbers on the page of errata are those of a quadrature."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize

from lipnb.regularizers import adversarial_perturbation

PAGE = (Path(__file__).parents[2] / "book" / "errata.md").read_text(encoding="utf-8")
BEST = (math.sqrt(11 / 12), math.sqrt(47 / 12))


def target(r):
    return 0.0 if 1 <= r <= 2 else 1.0


def ramps(r, inner, outer):
    """Two unit slopes: falling around `inner`, rising around `outer`."""
    return max(np.clip(inner + 0.5 - r, 0, 1), np.clip(r - outer + 0.5, 0, 1))


def loss(centres):
    """Squared error over the square; outside the disc of radius 3 there is none."""
    inner, outer = centres
    cuts = sorted({1.0, 2.0, inner - 0.5, inner + 0.5, outer - 0.5, outer + 0.5})
    integrand = lambda r: 2 * math.pi * r * (ramps(r, inner, outer) - target(r)) ** 2  # noqa: E731
    pieces = zip([0.0, *cuts], [*cuts, 3.0], strict=True)
    return sum(quad(integrand, low, high, epsabs=1e-12)[0] for low, high in pieces)


def printed(pattern):
    """The number on the page that the pattern's group matches."""
    found = re.search(pattern, PAGE)
    assert found, f"the page does not say {pattern}"
    return float(found[1])


def test_the_printed_losses_are_the_integrals():
    assert loss((1, 2)) == pytest.approx(math.pi / 2, abs=1e-9)
    assert printed(r"\\pi/2 = ([\d.]+)\$") == pytest.approx(loss((1, 2)), abs=5e-7)
    assert printed(r"1\.979057 \| ([\d.]+) \|") == pytest.approx(loss(BEST), abs=5e-7)
    assert printed(r"1\.570796\$ \| ([\d.]+) \|") == pytest.approx(loss((1, 2)) / 64, abs=5e-7)
    assert printed(r"1\.554258 \| ([\d.]+) \|") == pytest.approx(loss(BEST) / 64, abs=5e-7)
    assert printed(r"([\d.]+) % worse") == pytest.approx(
        100 * (loss((1, 2)) / loss(BEST) - 1), abs=5e-3
    )


def test_the_printed_centres_are_those_of_the_smallest_loss():
    found = minimize(loss, (1, 2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14})
    assert found.x == pytest.approx(BEST, abs=1e-6)
    assert printed(r"\{11\}\{12\}\} = ([\d.]+)") == pytest.approx(BEST[0], abs=5e-7)
    assert printed(r"\{47\}\{12\}\} = ([\d.]+)") == pytest.approx(BEST[1], abs=5e-7)
    assert printed(r"from \$r = ([\d.]+)\$") == pytest.approx(BEST[0] + 0.5, abs=5e-7)
    assert printed(r"to \$r = ([\d.]+)\$") == pytest.approx(BEST[1] - 0.5, abs=5e-7)


def test_in_one_dimension_the_paper_s_centres_are_the_best():
    def flat(centres):
        r = (np.arange(60000) + 0.5) / 20000
        return sum((ramps(x, *centres) - target(x)) ** 2 for x in r[::20]) / 1000

    base = flat((1.0, 2.0))
    assert base == pytest.approx(1 / 6, abs=1e-5)
    for shift in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert flat((1 + shift[0], 2 + shift[1])) > base


def test_one_step_is_the_signed_gradient_at_the_shifted_point():
    def f(x):
        return x[:, 0] ** 2 - 2 * x[:, 1]

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, dtype=torch.float64, generator=generator)
    start = torch.nn.functional.normalize(torch.randn(x.shape, dtype=x.dtype, generator=generator))
    step = adversarial_perturbation(f, x, radius=1.0, xi=0.3, start=start, generator=generator)
    at = x + 0.3 * start
    gradient = torch.stack([2 * at[:, 0], torch.full_like(at[:, 0], -2.0)], dim=1)
    sign = torch.sign(f(at) - f(x))[:, None]
    torch.testing.assert_close(step, sign * torch.nn.functional.normalize(gradient))
    assert 0 < (sign < 0).sum() < len(x), "both signs occur"


def test_stacking_keeps_the_norms_of_rows_and_not_the_spectral_norm():
    row = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    twice = torch.cat([row, row])
    assert twice.norm(dim=1).max().item() == pytest.approx(1)
    spectral = torch.linalg.matrix_norm(twice, 2).item()
    assert printed(r"matrix of spectral norm ([\d.]+)\.") == pytest.approx(spectral, abs=5e-5)
