"""What the paper says about the toy figure, judged from the records by fixed rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import t

from lipnb.training.toy import PANELS
from lipnb.training.toy_problem import HALF_WIDTH, INNER, OUTER

__all__ = ["judge_choice", "judge_toy", "paired_difference"]

# Gradient error of a constant function: the share of the square where the optimum has slope 1.
CONSTANT = 2 * math.pi * (INNER + OUTER) / (2 * HALF_WIDTH) ** 2


def paired_difference(
    frame: Any, one: str, other: str, metric: str = "gradient_error", confidence: float = 0.95
) -> tuple[float, float, float]:
    r"""Compare two methods by the differences within seeds.

    With mean $m$ and standard deviation $s$ of the $n$ differences, the interval is
    $m \pm t_{n-1}\, s / \sqrt n$.

    Parameters
    ----------
    frame : pandas.DataFrame
        From `lipnb.records.read_records`.
    one, other : str
        Names of the methods; the difference is one minus other.
    metric : str
        Column to compare.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    mean, low, high : float
        The mean difference and its interval.

    Raises
    ------
    ValueError
        If a method has fewer than two seeds, or the two have different ones.

    Examples
    --------
    >>> import pandas
    >>> frame = pandas.DataFrame(
    ...     {"method": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "mse": [3.0, 4.0, 1.0, 2.0]})
    >>> paired_difference(frame, "a", "b", "mse")
    (2.0, 2.0, 2.0)
    """
    columns = [frame[frame["method"] == name].set_index("seed")[metric] for name in (one, other)]
    seeds = [sorted(column.index) for column in columns]
    if seeds[0] != seeds[1] or len(seeds[0]) < 2:
        raise ValueError(
            f"{one} and {other} must have the same two seeds or more; got {seeds[0]}, {seeds[1]}"
        )
    difference = columns[0] - columns[1]
    n, mean = len(difference), float(difference.mean())
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * float(difference.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def judge_toy(frame: Any) -> list[dict[str, Any]]:
    """Judge the paper's four claims about the figure.

    The rules were written before the full run had ended, but for the first: it also asked for a
    gradient error above that of a constant, which the paper does not say; that part is now
    reported beside the verdict. *Far too smooth*: the largest gradient of every seed stays below
    0.75. *Best at 10*: smaller gradient error than
    at 0.1 and at 1, by the paired interval. *Irregular with batch normalisation*: larger gradient
    error than without, by the paired interval, and largest gradient above 1.2. *Good*: gradient
    error at most a quarter above the best trained panel of the same normalisation, by the upper
    end of the paired interval, and with batch normalisation a smaller 99.9 % gradient than LP.

    Parameters
    ----------
    frame : pandas.DataFrame
        Records of all 28 panels.

    Returns
    -------
    list of dict
        `claim`, `paper`, `ours`, `verdict` and `evidence` of each.

    References
    ----------
    Terjek (2020), appendix A.4.
    """
    means = frame.groupby("method")[["gradient_error", "max_gradient", "q999_gradient"]].mean()
    error = means["gradient_error"]
    lp, alp = "lp-lambda10", "alp-k5-lambda1"

    low = frame[frame["method"] == "sn"]
    smooth = low["max_gradient"].max() < 0.75
    idle = low["gradient_error"].min() > CONSTANT

    against = [paired_difference(frame, lp, f"lp-lambda{w}") for w in ("0.1", "1")]
    if all(high < 0 for _, _, high in against):
        best = "reproduced"
    elif any(below > 0 for _, below, _ in against):
        best = "not reproduced"
    else:
        best = "not distinguishable"

    twins = [
        paired_difference(frame, f"lp-lambda{w}-bn", f"lp-lambda{w}") for w in ("0.1", "1", "10")
    ]
    steep = [means["max_gradient"][f"lp-lambda{w}-bn"] > 1.2 for w in ("0.1", "1", "10")]
    rough = [below > 0 and big for (_, below, _), big in zip(twins, steep, strict=True)]

    good = []
    for suffix in ("", "-bn"):
        rival = min(
            (p.name + suffix for p in PANELS if p.name != alp), key=lambda name: error[name]
        )
        _, _, high = paired_difference(frame, alp + suffix, rival)
        good.append(high <= 0.25 * error[rival])
    smoother = paired_difference(frame, f"{alp}-bn", f"{lp}-bn", "q999_gradient")[2] < 0
    facts = [*good, smoother]

    def share(parts: Sequence[bool]) -> str:
        """Name the verdict on several facts together."""
        return "reproduced" if all(parts) else "partly" if any(parts) else "not reproduced"

    def numbers(*pairs: tuple[str, str]) -> list[dict[str, str]]:
        """Name the records that bear a claim out."""
        return [{"method": method, "metric": metric} for method, metric in pairs]

    said = {True: "yes", False: "no"}
    return [
        {
            "claim": "SN without BN is far too smooth",
            "paper": "maximum gradient norm far below 1",
            "ours": f"the largest gradient norm of every seed is below 0.75: {said[bool(smooth)]};"
            f" every gradient error is above that of a constant function: {said[bool(idle)]}",
            "verdict": "reproduced" if smooth else "not reproduced",
            "evidence": numbers(("sn", "max_gradient"), ("sn", "gradient_error")),
        },
        {
            "claim": "LP without BN is best at the largest weight",
            "paper": "of λ = 0.1, 1 and 10, the last seems to work best",
            "ours": "gradient error compared within seeds",
            "verdict": best,
            "evidence": numbers(*((f"lp-lambda{w}", "gradient_error") for w in ("0.1", "1", "10"))),
        },
        {
            "claim": "LP with BN is irregular",
            "paper": "visibly highly irregular",
            "ours": "worse than its twin without BN, and steeper than 1.2, at λ = 0.1, 1, 10: "
            + ", ".join(said[bool(part)] for part in rough),
            "verdict": share(rough),
            "evidence": numbers((f"{lp}-bn", "gradient_error"), (f"{lp}-bn", "max_gradient")),
        },
        {
            "claim": "ALP with λ = 1, k = 5 is good with and without BN",
            "paper": "arguably the best choice both with and without BN; with BN smoother than LP",
            "ours": "close to the best without BN, with BN, and less steep than LP with BN: "
            + ", ".join(said[bool(part)] for part in facts),
            "verdict": share(facts),
            "evidence": numbers(
                (alp, "gradient_error"),
                (f"{alp}-bn", "gradient_error"),
                (f"{alp}-bn", "q999_gradient"),
                (f"{lp}-bn", "q999_gradient"),
            ),
        },
    ]


def judge_choice(frame: Any) -> dict[str, str]:
    """Ask of a run with one choice changed what the paper's claims come down to.

    Parameters
    ----------
    frame : pandas.DataFrame
        Records of "sn", of "lp-lambda0.1", "lp-lambda1", "lp-lambda10" and "alp-k5-lambda1", and
        of the last two with "-bn".

    Returns
    -------
    dict
        Question to answer. An answer is "yes" or "no" if the paired 95 % interval of the difference
        leaves zero out (for SN: if all seeds agree), else "open".

    Raises
    ------
    ValueError
        If a method is missing or has fewer than two seeds.

    Notes
    -----
    The questions are those of `judge_toy` that can be asked of fewer panels.
    """
    lp, alp = "lp-lambda10", "alp-k5-lambda1"
    low = frame[frame["method"] == "sn"]["max_gradient"]
    if len(low) < 2:
        raise ValueError(f"sn must have two seeds or more; got {len(low)}")
    share = float((low < 0.75).mean())
    flat = "yes" if share == 1 else "no" if share == 0 else "open"

    def smaller(one: str, other: str, metric: str = "gradient_error") -> str:
        """Say whether `one` has the smaller metric."""
        _, below, above = paired_difference(frame, one, other, metric)
        return "yes" if above < 0 else "no" if below > 0 else "open"

    return {
        "SN stays below slope 0.75": flat,
        "LP: λ = 10 better than 0.1": smaller(lp, "lp-lambda0.1"),
        "LP: λ = 10 better than 1": smaller(lp, "lp-lambda1"),
        "LP: worse with BN": smaller(lp, f"{lp}-bn"),
        "with BN, ALP less steep than LP": smaller(f"{alp}-bn", f"{lp}-bn", "q999_gradient"),
    }
