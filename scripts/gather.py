"""Gather all that the book needs on a machine without a network: python scripts/gather.py FOLDER

FOLDER gets the packages (wheels/), the book (book.bundle), data and weights where asked for, their
digests, and offline.sh, which installs and runs the book there. Both machines need the same kind of
operating system and the same version of Python.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class GatherError(Exception):
    """Something is missing or could not be fetched."""


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd)
    if done.returncode:
        raise GatherError(f"this command failed: {' '.join(map(str, command))}")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> int:
    """Write SHA256SUMS over all other files; return how many there are."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    return len(files)


def gather(folder: Path, root: Path, *, cifar10: bool, inception: Path | None) -> int:
    """Fill the folder; return the number of files in it."""
    if folder.exists() and any(folder.iterdir()):
        raise GatherError(f"the folder must be new or empty; {folder} holds files")
    folder.mkdir(parents=True, exist_ok=True)
    if inception is not None and not inception.is_file():
        raise GatherError(f"no weights of Inception at {inception}")
    run("git", "bundle", "create", "-q", folder / "book.bundle", "HEAD", cwd=root)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
    lock = root / "requirements.txt"
    run(*pip, "--require-hashes", "-r", lock, "-d", folder / "wheels", cwd=root)
    if cifar10:
        from lipnb.data import load_cifar10

        load_cifar10(folder / "data" / "cifar10", download=True)
    if inception is not None:
        (folder / "data").mkdir(exist_ok=True)
        shutil.copy(inception, folder / "data")
    shutil.copy(Path(__file__).with_name("offline.sh"), folder)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}\n"
    (folder / "python-version").write_text(version, encoding="utf-8")
    return seal(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="new or empty")
    parser.add_argument("--cifar10", action="store_true", help="fetch CIFAR-10 too (170 MB)")
    parser.add_argument("--inception", type=Path, help="file with the weights of Inception")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's repository")
    given = parser.parse_args(argv)
    folder = given.folder.resolve()
    try:
        files = gather(folder, given.root, cifar10=given.cifar10, inception=given.inception)
    except GatherError as error:
        print(f"gather: {error}", file=sys.stderr)
        return 1
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    print(f"{files} files, {size:.0f} MB in {folder}; there: sh offline.sh TARGET book")
    return 0


if __name__ == "__main__":
    sys.exit(main())
