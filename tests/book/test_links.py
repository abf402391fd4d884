"""The link check finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

import check_links
import pytest

GOOD = """<html><head><link rel="canonical" href="https://example.org/a.html">
<link rel="stylesheet" href="sub/look.css"><script src="sub/code.js"></script></head>
<body id="top"><a href="sub/b.html#there">b</a> <a href="https://example.org">outside</a>
<a href="#top">up</a> <img src="sub/a%20picture.png"></body></html>"""
OTHER = (
    '<html><body><p id="there"><a href="../a.html">a</a> <a href="..">index</a></p></body></html>'
)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "index.html").write_text("<html></html>")
    (tmp_path / "sub" / "b.html").write_text(OTHER)
    (tmp_path / "sub" / "look.css").write_text("p { background: url(a.png) } /* http://x.org */")
    for name in ("code.js", "a picture.png"):
        (tmp_path / "sub" / name).write_text("")
    return tmp_path


def test_sound_pages_pass(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_links.main(str(pages)) == 0
    assert "3 pages checked, 0 bad links" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.html", '<a href="gone.html">x</a>', "a.html: no file for gone.html"),
        ("a.html", '<a href="sub/b.html#gone">x</a>', "a.html: no anchor for sub/b.html#gone"),
        ("a.html", '<a href="#gone">x</a>', "a.html: no anchor for #gone"),
        ("sub/b.html", '<img src="gone.png">', "sub/b.html: no file for gone.png"),
        ("a.html", '<script src="//cdn.org/x.js"></script>', "a.html: loads //cdn.org/x.js"),
        ("a.html", '<link rel="stylesheet" href="https://cdn.org/x.css">', "https://cdn.org/x.css"),
        ("a.html", '<img src="https://cdn.org/x.png">', "a.html: loads https://cdn.org/x.png"),
        ("sub/look.css", '@import "https://cdn.org/x.css";', "sub/look.css: loads https://cdn"),
        ("sub/look.css", "p { src: url('//cdn.org/x.woff') }", "sub/look.css: loads //cdn.org"),
    ],
)
def test_damage_is_named(
    pages: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    path = pages / name
    path.write_text(path.read_text() + text)
    assert check_links.main(str(pages)) == 1
    assert said in capsys.readouterr().out


def test_a_folder_without_pages_does_not_pass(tmp_path: Path) -> None:
    assert check_links.main(str(tmp_path)) == 1
