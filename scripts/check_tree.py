"""Check that no tracked file names a package index or a path of one particular machine.

Installation must work with whatever index the reader has configured, and a path that exists on
one machine only has no business in a book.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARY = {".png", ".inv", ".npz", ".ico", ".gif", ".jpg", ".pt"}
# Written in pieces, so that this file does not accuse itself.
HOSTS = ("py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org", "anaconda" + ".org")
FOLDERS = ("wo" + "rk", "ro" + "ot", "op" + "t", "ho" + "me", "tm" + "p", "Us" + "ers", "mn" + "t")
PATTERN = re.compile(
    "|".join(re.escape(host) for host in HOSTS)
    + r"|(?<![\w./~*<>{}$)-])/(?:"
    + "|".join(FOLDERS)
    + r")/[\w.]+"
    + "|--(?:extra-)?index-"
    + "url"
)
ALLOWED = re.compile("--no-emit-" + "index-" + r"url\b")


def tracked(root: Path) -> list[Path]:
    """Files under version control; without git, every file outside hidden and build folders."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        hidden = re.compile(r"(^|/)(\.(?!ci/|github/)|_build/|__pycache__/)")
        every = (path for path in sorted(root.rglob("*")) if path.is_file())
        return [path for path in every if not hidden.search(path.relative_to(root).as_posix())]
    return [root / name for name in names.split("\0") if name and (root / name).is_file()]


def accusations(text: str) -> list[tuple[int, str]]:
    """Line number and offending words of each place in a text."""
    return [
        (number, match.group())
        for number, line in enumerate(text.splitlines(), 1)
        for match in PATTERN.finditer(ALLOWED.sub("", line))
    ]


def main() -> int:
    """Print each place; exit 1 when there is one."""
    paths = [path for path in tracked(ROOT) if path.suffix not in BINARY]
    bad = 0
    for path in paths:
        for number, words in accusations(path.read_text(encoding="utf-8")):
            print(f"{path.relative_to(ROOT)}:{number}: names {words}")
            bad += 1
    print(f"{len(paths)} tracked files, {bad} machine paths or package indexes")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
