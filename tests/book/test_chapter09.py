"""The numbers of chapter 09, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over twelve blocks of seeds (16 networks on
the moons, 8 or 24 on the digits; one machine, float32, the chapter's numbers of steps), widened on
each side by half of that range. Each claim has a twin in which something is broken on purpose and
the number must leave its interval.
"""

import ast
import functools
import re
from pathlib import Path

import jupytext
import pytest
import torch
from torch import nn

from lipnb.distances import hellinger, jensen_shannon, kullback_leibler, mean_squared
from lipnb.models import mlp
from lipnb.regularizers import adversarial_lipschitz_penalty, virtual_adversarial_loss

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "notebooks" / "09_virtual_adversarial_training.md"
ERRATA = (ROOT / "book" / "errata.md").read_text(encoding="utf-8")
CONSTANTS = {"rulers", "digits", "images", "labels", "seed"}


def chapter(old="", new=""):
    """Run the imports, the definitions and a few constants of the chapter, with one change."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source.replace(old, new) if old else cell.source).body:
                target = getattr(node, "target", None) or (getattr(node, "targets", None) or [0])[0]
                constant = isinstance(target, ast.Name) and target.id in CONSTANTS
                if constant or isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    kept.append(node)
    names = {}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


@pytest.fixture(scope="module")
def ch():
    return chapter()


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


def points(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def classifier(seed=0):
    g = torch.Generator().manual_seed(seed)
    f = mlp([5, 16, 4], nn.Tanh, generator=g, dtype=torch.float64)
    f[-1].weight.data *= 4
    return f


# --- rulers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_triangles_hold_for_the_metrics_and_break_for_the_divergences(ch, seed):
    a, b, c = 2 * points(3, 20000, 4, seed=seed)
    broken = {n: (d(a, c) > d(a, b) + d(b, c) + 1e-12).any() for n, d in ch["rulers"].items()}
    assert {n for n, some in broken.items() if some} == {"KL", "JS"}
    squares = hellinger(a, c) ** 2 > hellinger(a, b) ** 2 + hellinger(b, c) ** 2
    assert squares.any()  # sabotage: the square of a metric is found out


def test_root_of_jensen_shannon_has_a_gradient_of_zero_at_equality(ch):
    y = points(7, 3).requires_grad_()
    (g,) = torch.autograd.grad(ch["root_jensen_shannon"](y, y.detach()).sum(), y)
    assert (g == 0).all()


def test_a_road_has_no_length_in_kl_and_has_one_in_hellinger(ch):
    road = ch["road"]
    for n in (3, 100):
        assert road(ch["both_ways"], n) == pytest.approx(road(ch["both_ways"], 1) / n, rel=1e-9)
    fall = road(kullback_leibler, 1000) / road(kullback_leibler, 100)
    assert fall == pytest.approx(0.1, rel=1e-3)
    assert road(hellinger, 1000) == pytest.approx(road(hellinger, 100), rel=1e-4)


# --- the Fisher matrix ------------------------------------------------------------------------


def local_errors(ch, matrix_of):
    """Relative errors of KL, 4 JS and 4 H^2 along top eigenvectors, against r'Fr / 2."""
    f, x = classifier().requires_grad_(False), points(50, 5, seed=1)
    values, vectors = torch.linalg.eigh(matrix_of(f, x))
    r, half = 1e-3 * vectors[:, :, -1], 1e-6 * values[:, -1] / 2
    rulers = (kullback_leibler, lambda y, z: 4 * jensen_shannon(y, z))
    rulers += (lambda y, z: 4 * hellinger(y, z) ** 2,)
    return [(d(f(x), f(x + r)) / half - 1).abs().max().item() for d in rulers]


def test_all_rulers_share_the_fisher_matrix(ch):
    assert max(local_errors(ch, ch["fisher"])) < 0.02


def test_sabotage_the_matrix_without_its_rank_one_part(ch):
    def wrong(f, x):
        J, p = ch["vmap"](ch["jacrev"](f))(x), f(x).softmax(dim=1)
        return J.mT @ torch.diag_embed(p) @ J

    assert min(local_errors(ch, wrong)) > 0.1


# --- the method and the reduction -------------------------------------------------------------


def gradient_gap(f, one, other):
    """Relative distance of the gradients of two losses in the weights."""
    g, h = (
        torch.cat(
            [
                p.flatten()
                for p in torch.autograd.grad(loss, list(f.parameters()), retain_graph=True)
            ]
        )
        for loss in (one, other)
    )
    return ((g - h).norm() / g.norm()).item()


@pytest.mark.parametrize("k", [1, 3])
def test_vat_from_scratch_is_the_library(ch, k):
    f, x, start = classifier(), points(40, 5, seed=1), points(40, 5, seed=2)
    theirs = virtual_adversarial_loss(f, x, radius=0.7, xi=0.1, steps=k, start=start)
    ours = ch["vat_from_scratch"](f, x, start, 0.7, 0.1, k)
    torch.testing.assert_close(ours, theirs.slopes)
    assert gradient_gap(f, theirs.loss, ours.mean()) < 1e-9
    # Sabotage: with f(x) trained, the value is the same and the gradient is not.
    free = adversarial_lipschitz_penalty(
        f,
        x,
        lipschitz_constant=0.0,
        radius=0.7,
        xi=0.1,
        steps=k,
        start=start,
        output_distance=kullback_leibler,
        reduction="mean",
    )
    assert 0.7 * free.loss.item() == pytest.approx(theirs.loss.item())
    assert gradient_gap(f, theirs.loss, 0.7 * free.loss) > 0.1


def square_ratio(f, radius, ruler=hellinger, reduction="mean_square"):
    """VAT over 4 eps^2 times the squared penalty for a metric."""
    x, start = points(40, 5, seed=1), points(40, 5, seed=2)
    options = {"radius": radius, "xi": 1e-3, "start": start}
    vat = virtual_adversarial_loss(f, x, **options).loss
    alr = adversarial_lipschitz_penalty(
        f, x, lipschitz_constant=0.0, output_distance=ruler, reduction=reduction, **options
    )
    return (vat / (4 * radius**2 * alr.loss)).item()


def test_vat_is_the_mean_square_for_both_metrics(ch):
    f = classifier()
    for ruler in (hellinger, ch["root_jensen_shannon"]):
        assert square_ratio(f, 1e-3, ruler) == pytest.approx(1, abs=5e-3)
    # Sabotage: another ruler, and the mean in place of the mean square.
    assert abs(square_ratio(f, 1e-3, ch["total_variation"]) - 1) > 0.1
    assert abs(square_ratio(f, 1e-3, reduction="mean") - 1) > 0.1


def test_the_dropped_term(ch):
    f, x, r = classifier(), points(40, 5, seed=1), 1e-2 * points(40, 5, seed=2)
    y, z = f(x), f(x + r)
    p, step = y.softmax(1).detach(), (z - y).detach()
    pushed = p * step - p * (p * step).sum(dim=1, keepdim=True)
    free = kullback_leibler(f(x), f(x + r)).sum()
    fixed = kullback_leibler(f(x).detach(), f(x + r)).sum()
    assert gradient_gap(f, free, fixed - (pushed * f(x)).sum()) < 1e-9
    assert gradient_gap(f, free, fixed) > 1  # without it: of another order


# --- training ---------------------------------------------------------------------------------

BLOCK = 500  # a block of seeds that no interval was measured on
MOONS = {"gain": (9.41, 14.79), "too far": (9.18, 13.36), "KL and H2": (-0.13, 0.54)}
DIGITS = {
    "gain": (3.25, 6.66),
    "gain of H": (2.87, 6.2),
    "ahead of logits": (2.31, 5.34),
    "free, long": (2.16, 6.3),
    "both signs": (-2.46, -1.31),
}


def moon_errors(ch, price=None, weight=1.0, first=BLOCK):
    """Test errors in percent of 16 networks on the moons."""
    seeds = list(range(first, first + 16))
    return 100 * ch["train"](ch["moons"], [2, 32, 32, 2], seeds, price, weight, steps=300)[2]


def digit_errors(ch, price=None, weight=1.0, first=BLOCK, n=8):
    """Test errors in percent of n networks on the digits with three labels per class."""
    seeds = list(range(first, first + n))
    return 100 * ch["train"](ch["digits_with"](3), [64, 32, 10], seeds, price, weight)[2]


def moon_numbers(ch, first=BLOCK):
    """The paired differences of the chapter that the moons carry."""
    near, far, alr = torch.full((16,), 0.3), torch.full((16,), 1.0), ch["alr"]
    vat = moon_errors(ch, alr(near, kullback_leibler), first=first)
    free = moon_errors(ch, alr(near, kullback_leibler, fixed=False), first=first)
    squared = alr(near, hellinger, power=2, fixed=False)
    return {
        "gain": (moon_errors(ch, first=first) - vat).mean().item(),
        "too far": (moon_errors(ch, alr(far, kullback_leibler), first=first) - vat).mean().item(),
        "KL and H2": (moon_errors(ch, squared, 4.0, first=first) - free).mean().item(),
    }


def digit_numbers(ch, first=BLOCK):
    """The paired differences of the chapter that the digits carry."""
    half, two, alr = torch.full((8,), 0.5), torch.full((8,), 2.0), ch["alr"]
    logits = alr(two, mean_squared, shortest=0.1, d_x=None)
    plain = digit_errors(ch, first=first)
    vat = digit_errors(ch, alr(half, kullback_leibler), first=first)
    long = [digit_errors(ch, alr(two, kullback_leibler, fixed=b), first=first) for b in (0, 1)]
    return {
        "gain": (plain - vat).mean().item(),
        "gain of H": (plain - digit_errors(ch, alr(half, hellinger), first=first)).mean().item(),
        "ahead of logits": (digit_errors(ch, logits, 0.3, first=first) - vat).mean().item(),
        "free, long": (long[0] - long[1]).mean().item(),
    }


@functools.cache
def short_vat(first):
    """Errors of VAT at the shortest radius, on 24 networks."""
    ch = chapter()
    return digit_errors(ch, ch["alr"](torch.full((24,), 0.25), kullback_leibler), 1.0, first, 24)


def both_signs_number(ch, first=BLOCK):
    """Both signs minus VAT at the shortest radius, on 24 networks."""
    short, vat = torch.full((24,), 0.25), short_vat(first)
    return (digit_errors(ch, ch["both_signs"](short), first=first, n=24) - vat).mean().item()


def test_what_the_moons_say(ch):
    for name, value in moon_numbers(ch).items():
        assert inside(value, MOONS[name]), (name, value)


def test_what_the_digits_say(ch):
    for name, value in digit_numbers(ch).items():
        assert inside(value, DIGITS[name]), (name, value)


def test_both_signs_help_at_a_short_radius(ch):
    assert inside(both_signs_number(ch), DIGITS["both signs"])


def test_sabotage_the_same_sign_twice():
    assert not inside(both_signs_number(chapter("f(x - r)", "f(x + r)")), DIGITS["both signs"])


def test_sabotage_the_price_detached_reversed_or_at_random(ch):
    near = torch.full((16,), 0.3)
    vat, plain = ch["alr"](near, kullback_leibler), moon_errors(ch)
    detached = moon_errors(ch, lambda *batch: vat(*batch).detach())
    assert (detached == plain).all()  # no gradient, no gain
    reversed_ = moon_errors(ch, vat, -1.0)
    assert not inside((plain - reversed_).mean().item(), MOONS["gain"])


def test_sabotage_the_mean_in_place_of_the_square(ch):
    near = torch.full((16,), 0.3)
    free = moon_errors(ch, ch["alr"](near, kullback_leibler, fixed=False))
    mean = moon_errors(ch, ch["alr"](near, hellinger, fixed=False), 3.0)
    assert not inside((mean - free).mean().item(), MOONS["KL and H2"])


def test_networks_side_by_side_are_networks_alone(ch):
    seeds = (3, 4, 5)
    f, weights = ch["side_by_side"]([2, 8, 8, 2], [torch.Generator().manual_seed(s) for s in seeds])
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    alone = [mlp([2, 8, 8, 2], generator=torch.Generator().manual_seed(s)) for s in seeds]
    outputs = torch.cat([net(part) for net, part in zip(alone, x, strict=True)])
    torch.testing.assert_close(f(x.flatten(0, 1)), outputs)
    (g,) = torch.autograd.grad(f(x.flatten(0, 1)).square().sum(), weights[0])
    (h,) = torch.autograd.grad(alone[1](x[1]).square().sum(), alone[1][0].weight)
    torch.testing.assert_close(g[1].T, h)


# --- errata -----------------------------------------------------------------------------------


def printed(pattern):
    """The number on the page of errata that the pattern's group matches."""
    found = re.search(pattern, " ".join(ERRATA.split()))
    assert found, f"the page does not say {pattern}"
    return float(found[1])


def test_the_printed_roads(ch):
    road = ch["road"]
    numbers = {
        r"one piece it is ([\d.]+) long": road(kullback_leibler, 1),
        r"thousand pieces ([\d.]+\d)\. In the Hell": road(kullback_leibler, 1000),
        r"metric it is ([\d.]+) in one piece": road(hellinger, 1),
        r"in one piece and ([\d.]+\d) in a thousand": road(hellinger, 1000),
    }
    for pattern, value in numbers.items():
        assert printed(pattern) == pytest.approx(value, abs=5e-7)


def test_the_printed_eighth():
    f, x = classifier(), points(40, 5, seed=1)
    options = {"radius": 8.0, "xi": 0.1, "start": points(40, 5, seed=2)}
    vat = virtual_adversarial_loss(f, x, **options).loss
    with_d_x = adversarial_lipschitz_penalty(
        f,
        x,
        lipschitz_constant=0.0,
        output_distance=kullback_leibler,
        reduction="mean",
        **options,
    ).loss
    assert (with_d_x / vat).item() == pytest.approx(1 / printed(r"with the weight 1/(\d+)"))


def test_lengths_compared_with_themselves(ch):
    shares = {h: ch["lengths_off"](h) for h in (1.0, 7.0, 8.0)}
    assert shares[1.0] == shares[8.0]  # a power of two scales without rounding
    for h in (8, 7):
        stated = printed(rf"([\d]+) %[\w ,]* at \$\\epsilon = {h}\$") / 100
        low, high = {8: (0.03, 0.3), 7: (0.6, 0.95)}[h]
        assert low < shares[h] < high and low < stated < high
    # An interval of positive width loses nothing to rounding.
    g = torch.Generator().manual_seed(0)
    unit = nn.functional.normalize(torch.randn(2000, 3072, generator=g), dim=1)
    drawn = (7 + torch.rand(2000, 1, generator=g)) * unit
    lengths = torch.linalg.vector_norm(drawn, dim=1)
    assert not ((lengths < 7) | (lengths > 8)).any()
