"""The tree check finds machine paths and package indexes, and leaves ordinary text alone."""

from __future__ import annotations

import check_tree
import pytest


def path(*parts: str) -> str:
    return "/" + "/".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        f"open('{path('ho' + 'me', 'ada', 'x.csv')}')",
        f"see {path('ro' + 'ot', 'notes')}",
        f"path = {path('tm' + 'p', 'out.json')}",
        "https://" + "py" + "pi.org/simple",
        "files." + "python" + "hosted.org",
        "pip install --" + "index-" + "url x",
        "pip install --extra-" + "index-" + "url x",
    ],
)
def test_it_accuses(text: str) -> None:
    assert [line for line, _ in check_tree.accusations(f"fine\n{text}\n")] == [2]


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org" + path("wo" + "rk", "x"),
        ".github/workflows/book.yml",
        "tests" + path("ho" + "me", "x.py"),
        "uv pip compile --no-emit-" + "index-" + "url",
        "a 1/2 and input/output",
    ],
)
def test_it_leaves_alone(text: str) -> None:
    assert check_tree.accusations(text) == []
