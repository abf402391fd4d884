"""A penalty leaves the network, its gradients and the random numbers as it found them."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lipnb.regularizers import (
    WorstPoints,
    adversarial_lipschitz_penalty,
    adversarial_perturbation,
    consistency_penalty,
    gradient_penalty,
    lipschitz_penalty,
    max_gradient_penalty,
    virtual_adversarial_loss,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=20, seed=0):
    return torch.randn(n, 3, generator=generator(seed), dtype=torch.float64)


def network(outputs=1, *, batch_norm=True, dropout=0.5, spectral=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Linear(3, 16)
        layers = [
            parametrizations.spectral_norm(first) if spectral else first,
            nn.BatchNorm1d(16) if batch_norm else nn.Identity(),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(16, outputs),
        ]
        if spectral:  # an estimate far from its limit, as after a large step of the weights
            first.parametrizations.weight[0]._v.copy_(torch.tensor([0.0, 0.6, 0.8]))
        return nn.Sequential(*layers).double()


PENALTIES = {
    "alp": adversarial_lipschitz_penalty,
    "alp, k = 3": functools.partial(adversarial_lipschitz_penalty, steps=3),
    "alp, one pass given": lambda f, x, generator: adversarial_lipschitz_penalty(
        f, x, output=torch.zeros(len(x), 1), generator=generator
    ),
    "vat": virtual_adversarial_loss,
    "vat with entropy": functools.partial(virtual_adversarial_loss, entropy_weight=1.0),
    "consistency": consistency_penalty,
    "gradient": functools.partial(gradient_penalty, allow_batch_norm=True),
    "max": functools.partial(max_gradient_penalty, allow_batch_norm=True, worst=WorstPoints(3)),
    "pairs": lambda f, x, generator: lipschitz_penalty(f, x, points(seed=1), generator=generator),
    "perturbation": adversarial_perturbation,
}


def outputs_of(name):
    return 4 if name.startswith("vat") else 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PENALTIES)
def test_nothing_is_left_changed(name, training):
    f = network(outputs_of(name), spectral=True).train(training)
    f[3].train()  # dropout stays on in either mode
    f[-1].bias.requires_grad_(False)
    x = points()
    f(x).sum().backward()
    before = {key: value.clone() for key, value in f.state_dict().items()}
    places = [id(b) for b in f.buffers()]
    grads = [None if p.grad is None else p.grad.clone() for p in f.parameters()]
    flags = [p.requires_grad for p in f.parameters()]
    modes = [m.training for m in f.modules()]
    state = torch.get_rng_state()
    x.requires_grad_()
    penalty = PENALTIES[name](f, x, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    after = f.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [id(b) for b in f.buffers()] == places
    assert [p.requires_grad for p in f.parameters()] == flags
    assert [m.training for m in f.modules()] == modes
    assert x.grad is None
    for p, g in zip(f.parameters(), grads, strict=True):
        assert (p.grad is None and g is None) or torch.equal(p.grad, g)
    if name != "perturbation":
        penalty.loss.backward()  # no graph has been written into
        assert torch.isfinite(penalty.loss)


@pytest.mark.parametrize("name", PENALTIES)
def test_an_error_in_f_leaves_nothing_changed_either(name):
    f = network(outputs_of(name))
    before = {key: value.clone() for key, value in f.state_dict().items()}
    state = torch.get_rng_state()

    def fail(*_):
        raise FloatingPointError("on purpose")

    f[-1].register_forward_hook(fail)
    with pytest.raises(FloatingPointError, match="on purpose"):
        PENALTIES[name](f, points(), generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(f.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", PENALTIES)
def test_a_generator_decides_dropout_too(name):
    f, call = network(outputs_of(name)), PENALTIES[name]
    results = []
    for seed in (0, 0, 1):
        torch.rand(3)  # the global generator has moved on; it must not matter
        if name == "max":
            call.keywords["worst"].points = None
        result = call(f, points(), generator=generator(seed))
        results.append(result if name == "perturbation" else result.slopes)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", [n for n in PENALTIES if n not in ("gradient", "max", "pairs")])
def test_without_a_generator_steps_differ(name):
    # Replayed masks must not make the next call draw the same start again.
    f = network(outputs_of(name), dropout=0.0 if name != "consistency" else 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = (PENALTIES[name](f, points(), generator=None) for _ in range(2))
    if name != "perturbation":
        one, two = one.slopes, two.slopes
    assert not torch.equal(one, two)


@pytest.mark.parametrize("given", [None, generator()])
def test_both_ends_of_a_slope_have_one_mask(given):
    f = network(dropout=0.5, batch_norm=False)
    alp = adversarial_lipschitz_penalty(f, points(), radius=1e-3, generator=given)
    assert alp.slopes.max() < 5  # two masks would give about 0.3 / 1e-3
    x = points()
    pairs = lipschitz_penalty(f, x, x + 1e-6, generator=given)
    assert pairs.slopes.max() < 5
    # Sabotage, and documented: a given f(x) has a mask of its own.
    own = adversarial_lipschitz_penalty(f, points(), output=f(points()), radius=1e-3)
    assert own.slopes.max() > 20


def test_spectral_normalisation_has_one_estimate_for_both_ends():
    f = network(dropout=0.0, batch_norm=False, spectral=True)
    x = points()
    assert (f(x) - f(x)).abs().max() > 1e-3  # the reason: each pass moves the estimate
    assert adversarial_lipschitz_penalty(f, x, radius=1e-6).slopes.max() < 5
    assert lipschitz_penalty(f, x, x + 1e-7).slopes.max() < 5
    f = network(dropout=0.0, batch_norm=False, spectral=True)
    given = adversarial_lipschitz_penalty(f, x, output=f(x), radius=1e-6)
    assert given.slopes.max() > 100  # documented: with a given output it has not ...
    f = network(dropout=0.0, batch_norm=False, spectral=True)
    with parametrize.cached():  # ... unless the weights are cached
        given = adversarial_lipschitz_penalty(f, x, output=f(x), radius=1e-6)
    assert given.slopes.max() < 5


def test_a_search_does_not_cut_cached_weights_off():
    f = network(dropout=0.0, batch_norm=False, spectral=True)
    x = points()
    with parametrize.cached():
        r = adversarial_perturbation(f, x)
        f(x + r).sum().backward()
    assert f[0].parametrizations.weight.original.grad.abs().max() > 0


def test_a_buffer_saved_in_the_graph_keeps_the_value_it_had():
    # y = x * b with b += 1 in each pass: the slope of the third pass is 3, and its gradient is too.
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", torch.zeros((), dtype=torch.float64))
            self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x):
            self.b.add_(1)
            return (x * self.w * self.b).sum(1)

    f = Counting()
    for _ in range(2):
        f(points())
    penalty = gradient_penalty(f, points(), lipschitz_constant=0.0)
    assert penalty.loss.item() == pytest.approx(3 * 9)
    penalty.loss.backward()
    assert f.w.grad.tolist() == pytest.approx([2 * 9.0] * 3)
    assert f.b == 2


def test_shared_buffers_stay_shared():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Module(), nn.Module()
            count = torch.zeros((), dtype=torch.float64)
            self.a.register_buffer("count", count)
            self.c.register_buffer("other_name", count)
            self.register_buffer("absent", None)

        def forward(self, x):
            self.a.count += 1
            return x.sum(1) * self.c.other_name

    f = Shared()
    assert gradient_penalty(f, points()).slopes.tolist() == pytest.approx([3**0.5] * 20)
    assert f.a.count is f.c.other_name and f.a.count == 0


def test_running_statistics_come_from_the_pass_of_the_loss_alone():
    f, x = network(dropout=0.0), points()
    twin = network(dropout=0.0)
    y = f(x)
    adversarial_lipschitz_penalty(f, x, output=y)
    adversarial_lipschitz_penalty(f, x)
    twin(x)
    for one, other in zip(f.buffers(), twin.buffers(), strict=True):
        assert torch.equal(one, other)
    assert f[1].num_batches_tracked == 1


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: f.forward, functools.partial])
def test_modules_are_found_behind_methods_and_partials(wrap):
    f = network(dropout=0.0)
    adversarial_lipschitz_penalty(wrap(f), points())
    assert f[1].num_batches_tracked == 0
    with pytest.raises(ValueError, match="normalises with the statistics of the batch"):
        gradient_penalty(wrap(f), points())


@pytest.mark.parametrize("name", [n for n in PENALTIES if n not in ("gradient", "max")])
def test_a_first_layer_that_works_in_place_is_refused(name):
    # It would overwrite the caller's points. (A gradient penalty ends in torch's own error.)
    first = nn.Linear(3, 3).double()
    f = nn.Sequential(first, nn.ReLU(inplace=True), network(outputs_of(name)))
    PENALTIES[name](f, points(), generator=generator())
    with pytest.raises(ValueError, match="f must leave its input as it was"):
        PENALTIES[name](f[1:], points(), generator=generator())


@pytest.mark.parametrize("name", PENALTIES)
def test_no_value_is_read_where_none_can_be(name, monkeypatch):
    # As under torch.compile, or while a CUDA graph is captured: no branch may depend on a value.
    f, x = network(outputs_of(name)), points()
    call = functools.partial(PENALTIES[name], f, x, generator=None)
    extra = {"domain": (-9.0, 9.0), "radius": torch.ones(20)} if name == "alp" else {}

    def refuse(*_):
        raise AssertionError("a value was read")

    for method in ("__bool__", "item", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, method, refuse)
    with pytest.raises(AssertionError, match="a value was read"):
        call()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    call(**extra)
