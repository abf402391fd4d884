"""What papers say about mutual information and critics, judged from records by fixed rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lipnb.training.toy_claims import paired_difference

__all__ = ["judge_information"]

MISSING = "not run at full size yet"


def judge_information(frame: Any) -> list[dict[str, Any]]:
    """Judge six claims of four papers.

    The rules were written before the records were read; a trial with another seed had been seen.
    *Accurate*: in two dimensions the means of MINE and of KSG are within 5 % or 0.05 nats of the
    truth at every correlation, and in 20 dimensions that of MINE within 10 % or 0.1 nats.
    *Tighter*: in 20 dimensions MINE's value is above that of MINE-f at correlations -0.7, 0.5 and
    0.9. *Regularised*: orthogonal critics are within 5 % or 0.03 nats of the exact D_lambda, for
    each law and slope. *Steady*: at slope 4, with 500 rows, the orthogonal critic is closer to 6
    and to 10 nats than the critic without a bound. *Solved*: with 500 rows it is within a tenth of
    1, 3, 6 and 10 nats. *Representations*: without a penalty the probe is worse on eight digits
    than on one, and the two penalties do better than none on eight. Comparisons are by the paired
    95 % interval over seeds; where all of a claim's intervals hold 0, the methods are not
    distinguishable (a line that was added when records were there).

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of `read_information`.

    Returns
    -------
    list of dict
        `claim`, `paper`, `ours`, `verdict` and `evidence` of each. A claim whose records are not
        there is not judged.

    References
    ----------
    Belghazi et al. (2018); Terjek (2021); Ozair et al. (2019).
    """
    judges = (_accurate, _tighter, _regularised, _steady, _solved, _representations)
    return [judge(frame) for judge in judges]


def _rows(frame: Any, part: str, method: str, **case: Any) -> Any:
    """Select the rows of a part and method, and of a case."""
    frame = frame[(frame["part"] == part) & (frame["method"] == method)]
    for name, value in case.items():
        frame = frame[frame[name] == value]
    return frame


def _near(rows: Any, by: str | list[str], share: float, least: float) -> list[bool]:
    """Tell of each case whether the mean over seeds is near the truth."""
    means = rows.groupby(by)[["value", "truth"]].mean()
    off = (means["value"] - means["truth"]).abs()
    return [bool(x) for x in off <= (share * means["truth"]).clip(lower=least)]


def _larger(frame: Any, part: str, one: str, other: str, score: str, **case: Any) -> int:
    """Tell which of two methods has the larger score: 1, -1, or 0 if the interval holds 0."""
    both = frame[(frame["part"] == part) & frame["method"].isin([one, other])]
    for name, value in case.items():
        both = both[both[name] == value]
    _, low, high = paired_difference(both, one, other, score)
    return int(low > 0) - int(high < 0)


def _claim(claim: str, paper: str, ours: str, parts: Sequence[int], evidence: Any) -> Any:
    """Put a claim together; without parts it was not judged."""
    holds = [part > 0 for part in parts]
    word = "reproduced" if all(holds) else "partly" if any(holds) else "not reproduced"
    if parts and not any(parts) and not any(isinstance(part, bool) for part in parts):
        word = "not distinguishable"
    return {
        "claim": claim,
        "paper": paper,
        "ours": f"{ours}: {sum(holds)} of {len(parts)}" if parts else "no record yet",
        "verdict": word if parts else MISSING,
        "evidence": evidence if parts else "",
    }


def _accurate(frame: Any) -> Any:
    """MINE and its rival against closed form."""
    parts: list[bool] = []
    mine = [_rows(frame, "gaussians", "mine", d=d) for d in (2, 20)]
    rival = _rows(frame, "gaussians", "ksg", d=2)
    if len(mine[0]) and len(mine[1]) and len(rival):
        parts = [
            *_near(mine[0], "rho", 0.05, 0.05),
            *_near(rival, "rho", 0.05, 0.05),
            *_near(mine[1], "rho", 0.1, 0.1),
        ]
    cases = [("gaussians.mine", f"d={d} rho={rho} value") for d in (2, 20) for rho in (-0.7, 0.9)]
    return _claim(
        "on correlated Gaussians MINE cannot be told from the truth",
        "MINE and KSG virtually indistinguishable from the truth (Belghazi et al., first version)",
        "correlations with the mean near the truth: MINE and KSG in 2, MINE in 20 dimensions",
        parts,
        _numbers([*cases, ("gaussians.ksg", "d=2 rho=0.9 value")]),
    )


def _tighter(frame: Any) -> Any:
    """Compare the bound with a logarithm to the one without."""
    places = (-0.7, 0.5, 0.9)
    there = all(len(_rows(frame, "gaussians", name, d=20)) for name in ("mine", "nwj"))
    parts = [
        _larger(frame, "gaussians", "mine", "nwj", "value", d=20, rho=rho)
        for rho in places
        if there
    ]
    return _claim(
        "MINE is tighter than MINE-f",
        "MINE provides a tighter estimate than MINE-f (Belghazi et al., first version)",
        "larger value in 20 dimensions at correlations -0.7, 0.5, 0.9",
        parts,
        _numbers(
            (f"gaussians.{name}", f"d=20 rho={rho} value")
            for name in ("mine", "nwj")
            for rho in places
        ),
    )


def _regularised(frame: Any) -> Any:
    """Compare a bounded critic with the exact D_lambda."""
    rows = _rows(frame, "exact", "orthogonal")
    parts = _near(rows, ["law", "lambda"], 0.05, 0.03) if len(rows) else []
    return _claim(
        "a trained Lipschitz critic attains the Moreau-Yosida divergence",
        "supremum over λ-Lipschitz functions equals D_λ (Terjék, 2021)",
        "orthogonal critics near the exact value, two laws and three slopes",
        parts,
        _numbers(
            ("exact.orthogonal", f"law={law} lambda={strength} value")
            for law in ("copy", "random")
            for strength in (0.5, 2.0, 8.0)
        ),
    )


def _steady(frame: Any) -> Any:
    """Few rows, much information: with and without a bound."""
    frame = frame.assign(off=(frame["value"] - frame["truth"]).abs())
    there = all(len(_rows(frame, "lipschitz", name, n=500)) for name in ("none", "orthogonal"))
    parts = [
        _larger(frame, "lipschitz", "none", "orthogonal", "off", n=500, nats=nats)
        for nats in (6, 10)
        if there
    ]
    return _claim(
        "a Lipschitz bound makes few samples go further",
        "the bound lowers the number of samples that are needed (Ozair et al.; slides)",
        "500 rows, closer to 6 and to 10 nats than without a bound",
        parts,
        _numbers(
            (f"lipschitz.{name}", f"lambda={slope} n=500 nats={nats} value")
            for name, slope in (("none", "0.0"), ("orthogonal", "4.0"))
            for nats in (6, 10)
        ),
    )


def _solved(frame: Any) -> Any:
    """Few rows, and the truth."""
    rows = _rows(frame, "lipschitz", "orthogonal", n=500)
    parts = _near(rows, "nats", 0.1, 0.0) if len(rows) else []
    return _claim(
        "the high sample complexity is solved",
        "additional Lipschitz constraint ⟹ high sample complexity solved (slides)",
        "500 rows, within a tenth of 1, 3, 6 and 10 nats",
        parts,
        _numbers(
            ("lipschitz.orthogonal", f"lambda=4.0 n=500 nats={nats} value")
            for nats in (1, 3, 6, 10)
        ),
    )


def _representations(frame: Any) -> Any:
    """Probes on stacks of digits."""
    there = all(len(_rows(frame, "digits", name)) for name in ("cpc", "gp", "lp"))
    parts: list[int] = []
    if there:
        cpc = _rows(frame, "digits", "cpc")
        few, many = (str(float(k)) for k in (1, 8))
        ends = cpc.assign(method=cpc["digits"].astype(float).astype(str))
        parts.append(int(paired_difference(ends, few, many, "accuracy")[1] > 0))
        parts += [
            _larger(frame, "digits", name, "cpc", "accuracy", digits=8) for name in ("gp", "lp")
        ]
    return _claim(
        "InfoNCE forgets parts where the information is large, with a Lipschitz penalty less",
        "CPC degrades as the information grows, the Wasserstein variant less (Ozair et al.)",
        "probe worse on 8 digits than on 1; better with GP, and with LP, than without",
        parts,
        _numbers(
            (f"digits.{name}", f"digits={k} accuracy")
            for name in ("cpc", "gp", "lp")
            for k in (1, 8)
        ),
    )


def _numbers(pairs: Any) -> list[dict[str, str]]:
    """Name the records that bear a claim out."""
    return [{"method": method, "metric": metric} for method, metric in pairs]
