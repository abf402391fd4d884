"""Check built pages: every relative link and anchor exists, and nothing is loaded from a network.

python scripts/check_links.py _build/html
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src"}
NOT_LOADED = {"canonical", "author", "next", "prev", "index", "search"}  # <link rel=...>
CSS_URL = re.compile(r"""(?:@import\s+|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """The anchors, links and loaded files of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag names, links to or loads."""
        found = {key: value for key, value in attrs if value}
        self.ids.update(found[key] for key in ("id", "name") if key in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in LOADING and LOADING[tag] in found:
            self.loads.append(found[LOADING[tag]])
        elif tag == "link" and "href" in found and found.get("rel") not in NOT_LOADED:
            self.loads.append(found["href"])


def page_problems(path: Path, pages: dict[Path, Page], root: Path) -> list[str]:
    """What is wrong with one page."""
    page, name, bad = pages[path], path.relative_to(root), []
    for url in page.loads:
        if urlsplit(url).netloc:
            bad.append(f"{name}: loads {url}")
    for url in page.links + page.loads:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target /= "index.html"
        if not target.exists():
            bad.append(f"{name}: no file for {url}")
        elif parts.fragment and target in pages:
            if unquote(parts.fragment) not in pages[target].ids:
                bad.append(f"{name}: no anchor for {url}")
    return bad


def main(folder: str) -> int:
    """Check every page and style sheet under a folder."""
    root = Path(folder).resolve()
    paths = [path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    bad = [problem for path in pages for problem in page_problems(path, pages, root)]
    for sheet in sorted(root.rglob("*.css")):
        for url in CSS_URL.findall(sheet.read_text(encoding="utf-8")):
            bad.append(f"{sheet.relative_to(root)}: loads {url}")
    if not pages:
        bad.append(f"no page under {root}")
    print(*bad, f"{len(pages)} pages checked, {len(bad)} bad links", sep="\n", flush=True)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
