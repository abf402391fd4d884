"""Gathering and installing without a network, on a small book with one small package."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# No index can be reached: the connected machine's is a folder, the other one has none at all.
OFFLINE = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
# A build backend of a dozen lines, so that the small book installs like ours.
BACKEND = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from wheel_of import make_wheel

def build_editable(folder, settings=None, metadata=None):
    here = str(pathlib.Path.cwd())
    return make_wheel(pathlib.Path(folder), "smallbook", {"smallbook.pth": here}).name
"""
WHEEL = """
import base64, hashlib, zipfile

def make_wheel(folder, name, files):
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    lines = [f"{info}/RECORD,,"]
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        lines.append(f"{path},sha256={digest.rstrip('=')},{len(text.encode())}")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": "\\n".join(lines) + "\\n"}.items():
            archive.writestr(name, text)
    return path
"""


@pytest.fixture(scope="module", name="gathered")
def gathered_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as gather.py makes it."""
    place = tmp_path_factory.mktemp("offline")
    book, index = place / "book", place / "index"
    for folder in (book / "build", index):
        folder.mkdir(parents=True)
    exec(WHEEL, space := {})
    wheel = space["make_wheel"](index, "smallpart", {"smallpart.py": "value = 7\n"})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (book / "requirements.txt").write_text(f"smallpart==1.0 --hash=sha256:{digest}\n")
    (book / "build" / "wheel_of.py").write_text(WHEEL)
    (book / "build" / "backend.py").write_text(BACKEND)
    (book / "smallbook.py").write_text("from smallpart import value\n")
    (book / "Makefile").write_text("book:\n\t@.venv/bin/python -c 'import smallbook'; echo $(X)\n")
    (book / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["build"]\n'
    )
    git = ["git", "-C", str(book), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "small"]):
        subprocess.run([*git, *words], check=True)
    weights = place / "weights.pth"
    weights.write_bytes(b"numbers")
    done = gather(place / "all", "--root", str(book), "--inception", str(weights), index=index)
    assert done.returncode == 0, done.stderr
    return place / "all"


def gather(*words: str | Path, index: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "gather.py"), *map(str, words)]
    environment = {**OFFLINE, "PIP_FIND_LINKS": str(index)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def offline(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(folder / "offline.sh"), *map(str, words)]
    environment = {**OFFLINE, "PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_folder_holds_everything_and_is_sealed(gathered: Path) -> None:
    names = {p.relative_to(gathered).as_posix() for p in gathered.rglob("*") if p.is_file()}
    wanted = {"wheels/smallpart-1.0-py3-none-any.whl", "book.bundle", "offline.sh"}
    wanted |= {"data/weights.pth", "python-version"}
    assert names == wanted | {"SHA256SUMS"}
    lines = (gathered / "SHA256SUMS").read_text().splitlines()
    assert {line.partition("  ")[2] for line in lines} == wanted


def test_the_book_installs_and_runs_without_an_index(gathered: Path, tmp_path: Path) -> None:
    target = tmp_path / "here"
    done = offline(gathered, target, "book", "X=words-arrive")
    assert done.returncode == 0, done.stderr
    assert "words-arrive" in done.stdout
    assert (target / ".venv" / ".stamp").is_file()
    assert (target / "data" / "weights.pth").read_bytes() == b"numbers"
    found = subprocess.run(
        [target / ".venv" / "bin" / "python", "-c", "import smallbook; print(smallbook.value)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert found.stdout == "7\n", found.stderr
    again = offline(gathered, target)
    assert again.returncode == 1
    assert "exists already; name a new folder" in again.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wheels/smallpart-1.0-py3-none-any.whl", b"other", "damaged or missing: wheels/smallpart"),
        ("book.bundle", None, "damaged or missing: book.bundle"),
        ("python-version", b"2.7\n", "the packages are for Python 2.7"),
        ("SHA256SUMS", None, "holds no SHA256SUMS"),
    ],
)
def test_a_damaged_folder_is_refused(
    gathered: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    file = gathered / name
    before = file.read_bytes()
    try:
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        done = offline(gathered, tmp_path / "here")
    finally:
        file.write_bytes(before)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "here").exists()


def test_words_are_checked(gathered: Path, tmp_path: Path) -> None:
    assert "say where the book shall go" in offline(gathered).stderr
    done = gather(gathered, index=tmp_path)
    assert done.returncode == 1
    assert "the folder must be new or empty" in done.stderr
    done = gather(tmp_path / "new", "--inception", str(tmp_path / "none.pth"), index=tmp_path)
    assert done.returncode == 1
    assert "no weights of Inception" in done.stderr


def test_a_package_that_cannot_be_had_stops_the_gathering(gathered: Path, tmp_path: Path) -> None:
    book = tmp_path / "book"
    subprocess.run(["git", "clone", "-q", str(gathered / "book.bundle"), str(book)], check=True)
    done = gather(tmp_path / "all", "--root", str(book), index=tmp_path)
    assert done.returncode == 1
    assert "gather: this command failed:" in done.stderr
