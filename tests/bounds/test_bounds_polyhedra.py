"""lipnb.bounds.polyhedra: largest balls against known ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

from lipnb.bounds import polyhedra
from lipnb.bounds.polyhedra import inner_balls, inner_radius

Polyhedron = tuple[np.ndarray, np.ndarray]


def box(*widths: float) -> Polyhedron:
    """The box [0, w_1] x [0, w_2] x ..."""
    eye = np.eye(len(widths))
    return np.vstack([eye, -eye]), np.concatenate([np.zeros(len(widths)), widths])


def triangle() -> Polyhedron:
    """0 <= x, 0 <= y, x + y <= 1, whose inscribed circle has radius 1 / (2 + sqrt 2)."""
    diagonal = np.array([[-1.0, -1.0]]) / math.sqrt(2)
    return np.vstack([np.eye(2), diagonal]), np.array([0.0, 0.0, 1 / math.sqrt(2)])


def test_inscribed_balls_are_found_in_order_across_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = [box(1.0, 3.0), triangle(), box(0.2, 0.1), box(9.0, 9.0), box(1.0, -0.5)] * 3
    radii = [0.5, 1 / (2 + math.sqrt(2)), 0.05, 1.0, None] * 3
    for chunk in (1, 4, 100):
        monkeypatch.setattr(polyhedra, "CHUNK", chunk)
        for ball, radius, (normals, offsets) in zip(
            inner_balls(cases, 1e-9), radii, cases, strict=True
        ):
            if ball is None:
                assert radius is None
            else:
                assert ball[1] == pytest.approx(radius, abs=1e-9)
                assert inner_radius(normals, offsets, ball[0]) == ball[1]


def test_sets_without_interior_hold_no_ball_and_slivers_do() -> None:
    flat, empty, sliver = box(1.0, 0.0), box(1.0, -2e-7), box(1.0, 2e-7)
    wide = box(1e6, 1e6)  # a large neighbour in the same program must not blur the small ones
    flat_ball, empty_ball, sliver_ball, wide_ball = inner_balls([flat, empty, sliver, wide], 1e-9)
    assert flat_ball is None
    assert empty_ball is None
    assert sliver_ball is not None
    assert sliver_ball[1] == pytest.approx(1e-7, rel=1e-2)
    assert wide_ball is not None
    assert wide_ball[1] == 1.0
    assert inner_balls([sliver], 1e-6) == [None]


def test_whole_space_and_no_polyhedra() -> None:
    centre, radius = inner_balls([(np.eye(3)[:1], np.zeros(1))], 1e-9)[0] or (None, 0.0)
    assert radius == 1.0
    assert centre is not None
    assert centre[0] >= 1.0
    assert inner_balls([], 1e-9) == []


def test_a_failing_solver_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = OptimizeResult(status=4, message="numerical difficulties")
    monkeypatch.setattr(polyhedra, "linprog", lambda **_: stopped)
    with pytest.raises(RuntimeError, match=r"no optimum.*numerical difficulties"):
        inner_balls([box(1.0)], 1e-9)


def test_a_block_that_the_solver_refuses_is_solved_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solve, sizes = polyhedra.linprog, []

    def refuse_blocks(**program: Any) -> OptimizeResult:
        sizes.append(len(program["c"]))
        if sizes[-1] > 3:  # more than one polyhedron in the plane
            return OptimizeResult(status=3, message="the problem is unbounded")
        return solve(**program)

    cases = [box(1.0, 3.0), triangle(), box(1.0, -0.5)]
    expected = inner_balls(cases, 1e-9)
    monkeypatch.setattr(polyhedra, "linprog", refuse_blocks)
    for ball, wanted in zip(inner_balls(cases, 1e-9), expected, strict=True):
        if wanted is None:
            assert ball is None
        else:
            assert ball is not None
            assert ball[1] == pytest.approx(wanted[1], abs=1e-9)
    assert sizes == [9, 3, 3, 3]
