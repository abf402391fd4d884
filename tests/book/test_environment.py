"""One source for the dependencies: pyproject.toml. The lock and environment.yml must follow it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import environment
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKED_EXTRAS = ("book", "workflow", "gan")
PYTHONS = ("3.11", "3.12", "3.13")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def wanted(table: dict[str, Any]) -> list[Requirement]:
    """Every requirement that the lock must answer, with extras and groups resolved."""
    extras, groups = table["project"]["optional-dependencies"], table["dependency-groups"]
    todo = [*table["project"]["dependencies"], *groups["dev"]]
    todo += [line for extra in LOCKED_EXTRAS for line in extras[extra]]
    found = []
    while todo:
        line = todo.pop()
        if isinstance(line, dict):
            todo += groups[line["include-group"]]
        elif (requirement := Requirement(line)).name == table["project"]["name"]:
            todo += [more for extra in requirement.extras for more in extras[extra]]
        else:
            found.append(requirement)
    return found


def pins(text: str) -> list[tuple[Requirement, int]]:
    """Each pin of a lock with the number of its hashes."""
    entries = re.split(r"\n(?=\S)", text)
    lines = [
        (entry.splitlines()[0].rstrip(" \\"), entry.count("--hash=sha256:")) for entry in entries
    ]
    return [(Requirement(line), hashes) for line, hashes in lines]


def gaps(requirements: list[Requirement], text: str) -> list[str]:
    """Requirements without exactly one pin inside their range, on each Python."""
    locked = pins(text)
    found = []
    for requirement in requirements:
        for python in PYTHONS:
            names = {"python_version": python, "python_full_version": f"{python}.9"}
            versions = [
                str(pin.specifier).removeprefix("==")
                for pin, _ in locked
                if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
                and (pin.marker is None or pin.marker.evaluate(names))
            ]
            if len(versions) != 1 or not requirement.specifier.contains(versions[0], True):
                found.append(f"{requirement} on Python {python}: {versions}")
    return found


LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_every_dependency_has_a_pin_in_its_range() -> None:
    requirements = wanted(project())
    assert len(requirements) > 20
    assert gaps(requirements, LOCK) == []


@pytest.mark.parametrize("line", ["torch>=99", "numpy<1", "not-a-package-of-ours"])
def test_a_lock_that_parted_is_noticed(line: str) -> None:
    assert gaps([Requirement(line)], LOCK)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-uv.txt"])
def test_every_pin_is_exact_and_hashed(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for pin, hashes in pins(text):
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), pin
        assert hashes > 0, pin
    assert "://" not in text
    assert "index" + "-url" not in text


def test_a_pin_without_hash_is_noticed() -> None:
    without = re.sub(r"(?m)^(numpy==[^\\]*\\\n)(    --hash.*\n)+", r"\1", LOCK)
    assert [str(pin.name) for pin, hashes in pins(without) if not hashes] == ["numpy", "numpy"]


def test_environment_yml_is_what_pyproject_makes_it() -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert text == environment.environment()
    read = yaml.safe_load(text)
    assert read["name"] == project()["project"]["name"]
    assert read["channels"][0] == "conda-forge"
    python, pip, files = read["dependencies"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(
        project()["project"]["requires-python"]
    )
    assert (pip, files) == ("pip", {"pip": ["-r requirements.txt"]})


def test_the_python_range_is_one_everywhere() -> None:
    allowed = SpecifierSet(project()["project"]["requires-python"])
    assert [v for v in (f"3.{n}" for n in range(8, 20)) if v in allowed] == list(PYTHONS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in makefile


def test_make_lock_locks_what_is_tested_here() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = next(line for line in makefile.splitlines() if "compile -q" in line and "dev" in line)
    assert re.findall(r"--extra (\S+)", command) == list(LOCKED_EXTRAS)
    assert "--generate-hashes" in command
