"""The browser check finds what it is there to find (skipped where no Chromium is installed)."""

from __future__ import annotations

from pathlib import Path

import check_browser
import pytest

needs_browser = pytest.mark.skipif(
    check_browser.browser() is None, reason="no Chromium on this machine"
)
PAGE = """<html><body><div style='width:{width}px'>text</div>{body}
<script>{script}</script></body></html>"""


def pages(folder: Path, **damage: str) -> str:
    (folder / "book").mkdir()
    parts = {"width": "300", "body": "", "script": "var x = 1"}
    (folder / "book" / "sound.html").write_text(PAGE.format(**parts))
    (folder / "book" / "page.html").write_text(PAGE.format(**parts | damage))
    return str(folder)


@needs_browser
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"script": "var x = ;"}, "Uncaught SyntaxError"),
        ({"script": "throw new Error('broken')"}, "Uncaught Error: broken"),
        ({"width": "900"}, "book/page.html: 908 pixels wide on a screen of 390"),
        ({"body": "<span class='math'>x</span>"}, "1 of 1 formulas not rendered"),
        ({"body": "<mjx-merror>bad tex</mjx-merror>"}, "book/page.html: formula error bad tex"),
        ({}, "2 pages opened, 0 formulas rendered, 0 problems"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: dict[str, str], said: str
) -> None:
    assert check_browser.main(pages(tmp_path, **damage)) == int(bool(damage))
    assert said in capsys.readouterr().out


def test_no_browser_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_browser, "browser", lambda: None)
    assert check_browser.main(pages(tmp_path)) == 0
    assert "the pages were not opened" in capsys.readouterr().out


def test_a_page_that_never_loaded_is_said() -> None:
    assert check_browser.page_problems("a.html", None) == ["a.html: did not load"]


def test_a_folder_without_pages_does_not_pass(tmp_path: Path) -> None:
    assert check_browser.main(str(tmp_path)) == 1
