"""adversarial_perturbation and its penalty, on functions whose answer is known."""

import pytest
import torch
from torch import nn

from lipnb.regularizers import adversarial_lipschitz_penalty, adversarial_perturbation

A = torch.tensor([3.0, 4.0], dtype=torch.float64)  # |A| = 5


def linear(x):
    return x @ A


def points(n=50, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def critic(seed=0, batch_norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norm = [nn.BatchNorm1d(16)] if batch_norm else []
        return nn.Sequential(nn.Linear(2, 16), *norm, nn.Tanh(), nn.Linear(16, 1)).double()


@pytest.mark.parametrize("xi", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_linear_direction_is_the_gradient_at_any_xi(xi, steps):
    r = adversarial_perturbation(linear, points(), radius=0.7, xi=xi, steps=steps)
    # d_Y = |.| rises along whichever sign of the gradient the random start leans to.
    torch.testing.assert_close(r.abs(), (0.7 * A / 5).abs().expand(50, 2))
    assert (r[:, 0] * r[:, 1] > 0).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, 5.0, 7.0])
@pytest.mark.parametrize("one_sided", [True, False])
def test_linear_penalty_is_closed_form(constant, one_sided):
    penalty = adversarial_lipschitz_penalty(
        linear, points(), lipschitz_constant=constant, one_sided=one_sided
    )
    excess = max(5 - constant, 0) if one_sided else 5 - constant
    torch.testing.assert_close(penalty.loss, torch.tensor(excess**2, dtype=torch.float64))
    torch.testing.assert_close(penalty.slopes, torch.full((50,), 5.0, dtype=torch.float64))
    if constant != 5.0:
        assert penalty.violations == (50 if constant < 5 else 0)


@pytest.mark.parametrize("constant", [0.0, 1.0, 5.0, 7.0])
@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("xi", [0.0, 10.0])
def test_every_reduction_of_a_linear_map_is_closed_form(constant, one_sided, xi):
    excess = max(5 - constant, 0) if one_sided else abs(5 - constant)
    wanted = {"mean_square": excess**2, "mean": excess, "mean_both": excess + excess**2}
    for reduction, loss in wanted.items():
        penalty = adversarial_lipschitz_penalty(
            linear,
            points(),
            lipschitz_constant=constant,
            one_sided=one_sided,
            reduction=reduction,
            xi=xi,
        )
        assert penalty.loss.item() == pytest.approx(loss)


def test_quadratic_step_matches_the_closed_form():
    # f(x) = |x|^2 / 2: one step returns sign * (x + xi r_0) / |x + xi r_0|.
    x, start = points(), points(seed=1)
    r0 = start / start.norm(dim=1, keepdim=True)
    r = adversarial_perturbation(
        lambda x: x.square().sum(1) / 2, x, radius=2.0, xi=0.3, start=start
    )
    moved = x + 0.3 * r0
    sign = torch.sign(moved.square().sum(1) - x.square().sum(1)).unsqueeze(1)
    torch.testing.assert_close(r, 2 * sign * moved / moved.norm(dim=1, keepdim=True))


def test_a_tie_keeps_the_random_direction():
    # f is flat around x: f(x) = f(x + xi r_0) in all bits, though f is not constant.
    x, start = points() / 10, points(seed=1)
    r = adversarial_perturbation(
        lambda x: (x.norm(dim=1) - 5).clamp_min(0), x, radius=2.0, xi=1.0, start=start
    )
    torch.testing.assert_close(r, 2 * start / start.norm(dim=1, keepdim=True))
    assert torch.isfinite(r).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(bad):
    x = points()
    for call in (adversarial_perturbation, adversarial_lipschitz_penalty):
        with pytest.raises(ValueError, match=r"f\(x\) must be finite"):
            call(lambda x: linear(x) + bad, x)
        with pytest.raises(ValueError, match="must be finite"):
            call(lambda z: linear(z) + bad * (z[0, 0] != x[0, 0]), x)
        with pytest.raises(ValueError, match=r"the gradient of output_distance.* must be finite"):
            call(lambda x: (x - x.detach()).abs().sum(1).sqrt(), x)  # 0 with slope inf


def test_iteration_finds_the_leading_eigenvector_of_a_smooth_distance():
    # d_Y = squared distance and f linear: the Hessian is 2 M^T M, and steps are power iterations.
    m = torch.diag(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64))
    r = adversarial_perturbation(
        lambda x: x @ m,
        points(20, 3),
        radius=1.0,
        xi=1e-2,
        steps=60,
        output_distance=lambda y, z: (y - z).square().sum(1),
    )
    torch.testing.assert_close(r.abs(), torch.tensor([[0.0, 1.0, 0.0]]).double().expand(20, 3))


@pytest.mark.parametrize("radius", [0.1, 0.5, 2.0, 3.0, 7.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interval_of_zero_width_gives_exactly_that_length(radius, dtype):
    x = points(500, 30).to(dtype)
    r = adversarial_perturbation(
        lambda x: x.sin().sum(1), x, radius=(radius, radius), generator=generator()
    )
    gradient = adversarial_perturbation(
        lambda x: x.sin().sum(1), x, radius=1.0, generator=generator()
    )
    torch.testing.assert_close(r.norm(dim=1), torch.full((500,), radius, dtype=dtype))
    torch.testing.assert_close(r, radius * gradient)  # not one sample replaced by noise


def test_lengths_fill_the_interval_sample_by_sample():
    r = adversarial_perturbation(linear, points(4000), radius=(1.0, 3.0), generator=generator())
    length = r.norm(dim=1)
    assert 1.0 <= length.min() < 1.01 and 2.99 < length.max() <= 3.0
    assert length.mean().item() == pytest.approx(2.0, abs=0.03)
    given = torch.linspace(0.5, 4.0, 4000, dtype=torch.float64)
    torch.testing.assert_close(
        adversarial_perturbation(linear, points(4000), radius=given).norm(dim=1), given
    )


@pytest.mark.parametrize("scale", [0.0, 1e-200])
def test_zero_and_vanishing_gradients_have_an_answer(scale):
    start = points(seed=3)
    r = adversarial_perturbation(lambda x: scale * linear(x), points(), radius=2.0, start=start)
    torch.testing.assert_close(r.norm(dim=1), torch.full((50,), 2.0, dtype=torch.float64))
    if scale:
        torch.testing.assert_close(r.abs(), (2 * A / 5).expand(50, 2))
    else:  # the random direction is kept
        torch.testing.assert_close(r, 2 * start / start.norm(dim=1, keepdim=True))
    penalty = adversarial_lipschitz_penalty(lambda x: scale * linear(x), points())
    assert penalty.loss == 0 and penalty.violations == 0


def test_no_steps_is_a_random_direction_without_calling_f():
    def refuse(x):
        raise AssertionError("f was called")

    r = adversarial_perturbation(refuse, points(3000), radius=1.0, steps=0, generator=generator())
    torch.testing.assert_close(r.norm(dim=1), torch.ones(3000).double())
    # Isotropic: the angle is uniform, so no octant holds much more than an eighth.
    octant = (torch.atan2(r[:, 1], r[:, 0]) / (torch.pi / 4)).floor().long() % 8
    assert torch.bincount(octant).max() < 3000 / 8 * 1.2


def test_domain_is_kept_in_search_and_end_and_distance_is_the_clamped_one():
    x = points().clamp(-1, 1)
    seen = []

    def watched(x):
        seen.append(x.detach())
        return linear(x)

    penalty = adversarial_lipschitz_penalty(
        watched, x, domain=(-1.0, 1.0), radius=1.5, xi=0.5, generator=generator()
    )
    assert all(z.abs().max() <= 1 for z in seen)
    moved = seen[-1]
    expected = (linear(moved) - linear(x)).abs() / (moved - x).norm(dim=1)
    torch.testing.assert_close(penalty.slopes, expected.nan_to_num(0))
    assert (penalty.slopes <= 5 + 1e-9).all()


def test_perturbation_shortened_to_nothing_has_slope_zero():
    corner = torch.ones(4, 2, dtype=torch.float64)
    penalty = adversarial_lipschitz_penalty(
        linear, corner, domain=(-1.0, 1.0), radius=1.0, steps=0, start=corner
    )
    assert penalty.slopes.tolist() == [0.0] * 4
    assert penalty.loss == 0


def test_general_distances_enter_search_and_quotient():
    # With d_X = l_1 and a linear f the quotient along r is |a.r| / |r|_1, at most max |a_i| = 4.
    def l1(x, y):
        return (x - y).abs().sum(1)

    penalty = adversarial_lipschitz_penalty(
        linear, points(), input_distance=l1, xi=0.5, steps=40, lipschitz_constant=0.0
    )
    euclidean = adversarial_lipschitz_penalty(linear, points(), xi=0.5, lipschitz_constant=0.0)
    assert penalty.slopes.max() <= 4 + 1e-9
    assert euclidean.slopes.mean() > penalty.slopes.mean()
    halved = adversarial_lipschitz_penalty(
        linear, points(), output_distance=lambda y, z: (y - z).abs() / 2, lipschitz_constant=0.0
    )
    torch.testing.assert_close(halved.slopes, torch.full((50,), 2.5, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_changed(training):
    f = critic(batch_norm=True).train(training)
    f[0].weight.requires_grad_(False)
    x = points()
    f(x).sum().backward()
    before = {k: v.clone() for k, v in f.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in f.parameters()]
    flags = [p.requires_grad for p in f.parameters()]
    modes = [m.training for m in f.modules()]
    state = torch.get_rng_state()
    adversarial_perturbation(f, x, steps=3, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in f.state_dict().items())
    assert [p.requires_grad for p in f.parameters()] == flags
    assert [m.training for m in f.modules()] == modes
    for p, g in zip(f.parameters(), grads, strict=True):
        assert (p.grad is None and g is None) or torch.equal(p.grad, g)


def test_global_generator_is_left_alone_even_by_dropout():
    f = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    state = torch.get_rng_state()
    r = adversarial_perturbation(f, points(), generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.isfinite(r).all()


@pytest.mark.parametrize("training", [True, False])
def test_buffers_in_a_graph_are_not_written_to(training):
    f = critic(batch_norm=True).train(training)
    x = points()
    y = f(x)
    adversarial_lipschitz_penalty(f, x, output=y).loss.backward()  # would raise after a write


def test_same_generator_same_answer_and_works_without_grad_mode():
    f, x = critic(), points()
    one = adversarial_perturbation(f, x, generator=generator(5))
    with torch.no_grad():
        two = adversarial_perturbation(f, x, generator=generator(5))
    assert torch.equal(one, two) and not one.requires_grad


def test_output_is_reused_and_counts_of_passes_are_minimal():
    calls = []

    def counted(x):
        calls.append(x.shape[0])
        return linear(x)

    x = points()
    adversarial_perturbation(counted, x, output=linear(x), steps=3)
    assert len(calls) == 3  # k forward passes, f(x) not recomputed
    calls.clear()
    adversarial_lipschitz_penalty(counted, x, output=linear(x), steps=3)
    assert len(calls) == 4


def test_penalty_is_differentiated_through_both_ends():
    # f(x) = w |x|: slope is at most |w|; d loss / d w must be 2 (|w| - 1) on violating rays.
    w = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x = points()
    loss = adversarial_lipschitz_penalty(lambda x: w * linear(x) / 5, x).loss
    (grad,) = torch.autograd.grad(loss, w)
    assert grad.item() == pytest.approx(2 * (3 - 1))
    detached = adversarial_lipschitz_penalty(
        lambda x: w * linear(x) / 5, x, output=(w * linear(x) / 5).detach()
    ).loss
    (half,) = torch.autograd.grad(detached, w)
    assert half.item() != pytest.approx(grad.item())  # sabotage: a detached f(x) is seen


def test_image_batches_and_vector_outputs():
    x = torch.randn(6, 3, 5, 5, generator=generator(), dtype=torch.float64)
    m = torch.randn(75, 4, generator=generator(1), dtype=torch.float64)
    penalty = adversarial_lipschitz_penalty(
        lambda x: x.flatten(1) @ m, x, radius=1.0, steps=50, lipschitz_constant=0.0
    )
    sigma = torch.linalg.matrix_norm(m, 2)
    assert (penalty.slopes <= sigma * (1 + 1e-9)).all()
    assert penalty.slopes.min() > 0.99 * sigma
    one = adversarial_perturbation(lambda x: x.flatten(1) @ m, x, radius=1.0, steps=0)
    random = ((one.flatten(1) @ m).norm(dim=1)).max()
    assert random < 0.8 * sigma  # sabotage: without steps the bound is far


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.0}, "radius must be positive"),
        ({"radius": (2.0, 1.0)}, "radius must be positive"),
        ({"radius": torch.ones(3)}, "radius per sample"),
        ({"radius": (1.0, 2.0, 3.0)}, "radius must be positive"),
        ({"radius": float("nan")}, "radius must be positive"),
        ({"xi": -1.0}, "xi must be finite and at least 0"),
        ({"xi": float("inf")}, "xi must be finite and at least 0"),
        ({"steps": -1}, "steps must be an integer"),
        ({"steps": 1.5}, "steps must be an integer"),
        ({"domain": (1.0, -1.0)}, "low < high"),
        ({"domain": (5.0, 6.0)}, "inside the domain"),
        ({"domain": 5.0}, "domain must be"),
        ({"domain": (float("nan"), 9.0)}, "low < high"),
        ({"domain": (-9.0, torch.tensor([9.0, float("nan")]))}, "low < high"),
        ({"start": torch.full((50, 2), float("nan"))}, "start must be finite"),
        ({"start": torch.ones(3, 2)}, "start must have the shape"),
        ({"output": torch.ones(3)}, "rows, one per sample"),
    ],
)
def test_unusable_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        adversarial_perturbation(linear, points(), **change)


@pytest.mark.parametrize("name", ["output_distance", "input_distance"])
@pytest.mark.parametrize(
    "distance",
    [lambda a, b: (a - b).abs().reshape(len(a), -1), lambda a, b: (a - b).abs().mean()],
    ids=["(n, 1) or (n, d)", "scalar"],
)
def test_distances_that_are_not_one_number_per_sample_are_refused(name, distance):
    # They would broadcast: the quotients of each sample with the distances of all others.
    for steps in (0, 1):
        with pytest.raises(ValueError, match=f"{name} must return one number per sample"):
            adversarial_lipschitz_penalty(linear, points(), steps=steps, **{name: distance})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_input_is_refused(bad):
    x = points()
    x[3, 1] = bad
    with pytest.raises(ValueError, match="x must be finite"):
        adversarial_perturbation(linear, x)
    with pytest.raises(ValueError, match="must be finite"):
        adversarial_perturbation(lambda x: linear(x) * bad, points())


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match="floating point"):
        adversarial_perturbation(linear, torch.ones(3, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="shape"):
        adversarial_perturbation(linear, torch.ones(3))
    with pytest.raises(ValueError, match="reduction"):
        adversarial_lipschitz_penalty(linear, points(), reduction="sum")
    with pytest.raises(ValueError, match="lipschitz_constant"):
        adversarial_lipschitz_penalty(linear, points(), lipschitz_constant=-1.0)
