"""The training loop of critics on pairs: many estimators side by side, each with its own data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.theory import variational
from lipnb.theory.variational import Variational
from lipnb.training.critic import CriticPenalty
from lipnb.training.information_critics import InformationCritic, StackedLinear

__all__ = ["Estimator", "InformationHistory", "product_scores", "train_information_critic"]


@dataclass(frozen=True)
class Estimator:
    """How scores become a number, and what the critic is trained by.

    Attributes
    ----------
    name : str
        As in `estimate_mutual_information`.
    rate : float
        Share of the new batch in the moving average of "mine".
    clip : float
        Threshold tau of "smile".
    """

    name: str
    rate: float = 0.01
    clip: float = 5.0

    def __call__(
        self, joint: Tensor, marginal: Tensor, state: Tensor | None = None
    ) -> tuple[Variational, Tensor | None]:
        """Judge scores of pairs (M, n) and of wrong pairs (M, S, n); only "mine" has a state."""
        flat = marginal.flatten(1)
        if self.name == "mine":
            return variational.mine(joint, flat, state, rate=self.rate)
        if self.name == "info_nce":
            candidates = torch.cat([joint.unsqueeze(1), marginal], dim=1).mT
            objective = variational.contrast(joint, candidates)
            return Variational(objective.detach(), objective), None
        if self.name == "nguyen_wainwright_jordan":
            # The critic of this formula is 1 + log ratio; f is the log ratio throughout.
            return variational.nguyen_wainwright_jordan(joint + 1, flat + 1), None
        if self.name == "smile":
            return variational.smile(joint, flat, clip=self.clip), None
        formulas: dict[str, Callable[[Tensor, Tensor], Variational]] = {
            "donsker_varadhan": variational.donsker_varadhan,
            "moreau_yosida": variational.donsker_varadhan,
            "jensen_shannon": variational.jensen_shannon,
            "wasserstein_dependency": variational.wasserstein_dependency,
        }
        return formulas[self.name](joint, flat), None


@dataclass(frozen=True)
class InformationHistory:
    """What was seen while critics were trained.

    Attributes
    ----------
    training : Tensor
        Value on each batch, shape (steps, M).
    checked : Tensor
        Steps at which the validation rows were looked at, shape (checks,).
    validation : Tensor
        Value on the validation rows, shape (checks, M); empty without such rows.
    best : Tensor
        The step whose weights were kept, shape (M,).
    """

    training: Tensor
    checked: Tensor
    validation: Tensor
    best: Tensor


def train_information_critic(
    critic: InformationCritic,
    estimator: Estimator,
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor] | None,
    *,
    penalties: list[CriticPenalty] | None = None,
    weight: float = 10.0,
    after_step: Callable[[nn.Module], object] | None = None,
    steps: int,
    batch: int,
    shifts: int,
    learning_rate: float,
    weight_decay: float,
    check_every: int,
    generators: list[torch.Generator],
) -> InformationHistory:
    r"""Train M critics side by side, and keep the weights that did best on the validation rows.

    A batch holds n pairs of each data set. Its wrong pairs are x_i with y_{i + k} for a few random
    shifts k, so that none of them is a pair. AdamW with a cosine decay to zero.

    Parameters
    ----------
    critic : InformationCritic
        Changed in place, left in evaluation mode.
    estimator : Estimator
        What to maximise.
    training : (Tensor, Tensor)
        x and y, shapes (M, n, d_x) and (M, n, d_y): data set m for critic m.
    validation : (Tensor, Tensor) or None
        Other rows, likewise. Without them the last weights are kept.
    penalties, weight, after_step
        As in `train_critic`, one penalty for each critic. It looks at the network g alone, on
        pairs and wrong pairs; its weight is multiplied by the factor lambda of the critic, as the
        objective is.
    steps, batch, shifts, check_every : int
        Steps of the optimiser, n, the number of shifts, and how often to look at validation rows.
    learning_rate, weight_decay : float
        Of AdamW.
    generators : list of torch.Generator
        One for each critic, the only source of its randomness.

    Returns
    -------
    InformationHistory
        Values on the way.

    Raises
    ------
    FloatingPointError
        If a loss is not finite; the message names the step and the critics.
    """
    x, y = training
    copies, rows = x.shape[:2]
    batch = min(batch, rows)
    shifts = min(shifts, batch - 1)
    parameters = list(critic.parameters())
    adam = torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    values = torch.zeros(steps, copies, dtype=torch.float64)
    keeper = _Best(critic)
    state: Tensor | None = None
    order = [torch.empty(0, dtype=torch.long)] * copies
    members = torch.arange(copies)[:, None]
    checked, scores = [], []
    for step in range(steps + 1):
        if validation is not None and (step % check_every == 0 or step == steps):
            critic.eval()
            value = evaluate(critic, estimator, *validation, shifts=VALIDATION_SHIFTS)
            keeper.offer(value, step)
            checked.append(step)
            scores.append(value)
        if step == steps:
            break
        critic.train()
        for m in range(copies):
            if len(order[m]) < batch:
                order[m] = torch.randperm(rows, generator=generators[m])
        rows_now = torch.stack([o[:batch] for o in order])
        order = [o[batch:] for o in order]
        partners = _partners(batch, shifts, generators)
        x_now, y_now = x[members, rows_now], y[members, rows_now]
        with parametrize.cached():
            f = critic.pairs(x_now, y_now, partners)
            _require_finite(f, f"step {step}")
            found, state = estimator(f[:, 0], f[:, 1:], state)
            loss = -found.objective
            if penalties is not None:
                wrong = y_now[members, partners[:, 1]]
                found_losses = _penalties(critic, penalties, x_now, y_now, wrong, generators)
                loss = loss + weight * critic.scale * found_losses
            if not bool(torch.isfinite(loss).all()):
                bad = torch.nonzero(~torch.isfinite(loss.detach())).flatten().tolist()
                raise FloatingPointError(f"the loss is not finite at step {step}, of critics {bad}")
            adam.zero_grad(set_to_none=True)
            # A sum over critics keeps each one's gradient its own.
            torch.autograd.backward(loss.sum())
        # A large factor lambda on the output would be a larger step of the function.
        # The gap of a Wasserstein distance is linear in it; nothing is exponential there.
        shorten = estimator.name != "wasserstein_dependency" and bool((critic.scale > 1).any())
        slow = [p.detach().clone() for p in parameters] if shorten else []
        adam.step()
        for p, before in zip(parameters if slow else [], slow, strict=True):
            rate = 1 / critic.scale.clamp_min(1)
            shape = [-1, *[1] * (p.ndim - 1)] if copies > 1 else [*[1] * p.ndim]
            p.data.copy_(torch.lerp(before, p.data, rate.view(shape)))
        decay.step()
        if after_step is not None:
            after_step(critic.networks)
        values[step] = found.value
    critic.eval()
    best = torch.full((copies,), steps)
    if validation is not None:
        best = keeper.restore()
    return InformationHistory(
        values,
        torch.tensor(checked),
        torch.stack(scores) if scores else torch.zeros(0, copies, dtype=torch.float64),
        best,
    )


VALIDATION_SHIFTS = 16
PAIRS_AT_ONCE = 2**15


@torch.no_grad()
def product_scores(critic: InformationCritic, x: Tensor, y: Tensor, shifts: int) -> Tensor:
    """Score pairs and wrong pairs: f(x_i, y_{i + k}) for k = 0 and `shifts` spread-out others.

    Parameters
    ----------
    critic : InformationCritic
        In evaluation mode.
    x, y : Tensor
        Shapes (M, n, d_x) and (M, n, d_y).
    shifts : int
        How many k, at most n - 1.

    Returns
    -------
    Tensor
        Shape (M, shifts + 1, n), float64; entry (m, 0, i) belongs to the pair i.
    """
    copies, n = x.shape[:2]
    shifts = min(shifts, n - 1)
    spread = 1 + torch.arange(shifts) * (n - 1) // max(shifts, 1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), spread])
    parts = []
    for part in torch.split(offsets, max(1, PAIRS_AT_ONCE // (n * copies))):
        partners = (torch.arange(n)[None] + part[:, None]) % n
        parts.append(critic.pairs(x, y, partners.expand(copies, -1, -1)).double())
    scores = torch.cat(parts, dim=1)
    _require_finite(scores, "the evaluation")
    return scores


def _require_finite(scores: Tensor, where: str) -> None:
    """Refuse scores (M, S, n) that are not finite."""
    finite = torch.isfinite(scores).all(dim=2).all(dim=1)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten().tolist()
        raise FloatingPointError(f"the scores are not finite at {where}, of critics {bad}")


def evaluate(
    critic: InformationCritic, estimator: Estimator, x: Tensor, y: Tensor, *, shifts: int
) -> Tensor:
    """Value of the estimator on rows, shape (M,), float64."""
    f = product_scores(critic, x, y, shifts)
    return estimator(f[:, 0], f[:, 1:])[0].value


def _partners(batch: int, shifts: int, generators: list[torch.Generator]) -> Tensor:
    """Draw indices i + k of a batch: k = 0, then random shifts; shape (M, shifts + 1, n)."""
    drawn = [torch.randperm(batch - 1, generator=g)[:shifts] + 1 for g in generators]
    offsets = torch.cat([torch.zeros(len(drawn), 1, dtype=torch.long), torch.stack(drawn)], dim=1)
    return (torch.arange(batch) + offsets[..., None]) % batch


def _penalties(
    critic: InformationCritic,
    penalties: list[CriticPenalty],
    x: Tensor,
    y: Tensor,
    wrong: Tensor,
    generators: list[torch.Generator],
) -> Tensor:
    """Penalise each network g on its own points, with its own generator; losses (M,)."""
    losses = []
    for m, generator in enumerate(generators):
        network = critic.networks[0] if len(generators) == 1 else _Member(critic.networks[0], m)
        network.train(critic.training)
        right, product = torch.cat([x[m], y[m]], dim=1), torch.cat([x[m], wrong[m]], dim=1)
        output = network(torch.cat([right, product]))
        losses.append(penalties[m](network, right, product, output, generator).loss)
    return torch.stack(losses)


class _Member(nn.Module):
    """One network of a stack, as a view of its weights."""

    def __init__(self, stack: nn.Module, member: int) -> None:
        super().__init__()
        self.layers, self.member = list(stack.children()), member  # a list registers nothing

    def forward(self, z: Tensor) -> Tensor:
        """Evaluate the one network, (n, in) to (n, out)."""
        for layer in self.layers:
            if isinstance(layer, StackedLinear):
                z = nn.functional.linear(z, layer.weight[self.member], layer.bias[self.member])
            else:
                z = layer(z)
        return z


class _Best:
    """The best weights so far of each critic of a stack."""

    def __init__(self, critic: InformationCritic) -> None:
        self.critic = critic
        self.value = torch.full((critic.copies,), -math.inf, dtype=torch.float64)
        self.step = torch.zeros(critic.copies, dtype=torch.long)
        self.kept = {name: part.clone() for name, part in critic.state_dict().items()}

    def offer(self, value: Tensor, step: int) -> None:
        """Keep the weights of those critics whose value is higher than before."""
        better = value > self.value
        self.value, self.step = torch.where(better, value, self.value), self.step.clone()
        self.step[better] = step
        for name, part in self.critic.state_dict().items():
            if self.critic.copies == 1:
                if bool(better):
                    self.kept[name] = part.clone()
            else:
                mask = better.view(-1, *[1] * (part.ndim - 1))
                self.kept[name] = torch.where(mask, part, self.kept[name])

    def restore(self) -> Tensor:
        """Put the best weights back; return the steps they are from."""
        self.critic.load_state_dict(self.kept)
        return self.step
