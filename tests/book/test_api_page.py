"""Every public name of the library is on the API page, where readers look for it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import lipnb

PAGE = Path(__file__).parents[2] / "book" / "api.md"


def modules() -> list[str]:
    found = (m.name for m in pkgutil.walk_packages(lipnb.__path__, "lipnb."))
    return [name for name in found if not any(part.startswith("_") for part in name.split("."))]


def public(name: str) -> list[str]:
    return list(getattr(importlib.import_module(name), "__all__", ()))


def listed(text: str) -> list[str]:
    return re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)


def missing(text: str) -> list[str]:
    """Public names that are exported by no module listed on a page."""
    shown = listed(text)
    names = {name for module in shown for name in public(module)}
    absent = []
    for module in modules():
        package = module.rpartition(".")[0]
        for name in public(module):
            if module not in shown and not (package in shown and name in public(package)):
                absent.append(f"{module}.{name}")
            elif name not in names:
                absent.append(f"{module}.{name}")
    return absent


def test_every_public_name_is_listed() -> None:
    assert sum(len(public(module)) for module in modules()) > 20
    assert missing(PAGE.read_text(encoding="utf-8")) == []


def test_a_module_taken_off_the_page_is_missed() -> None:
    text = PAGE.read_text(encoding="utf-8").replace(".. automodule:: lipnb.theory\n", "")
    assert "lipnb.theory.wasserstein1" in missing(text)


def test_the_page_lists_only_modules_that_exist_and_say_what_is_public() -> None:
    shown = listed(PAGE.read_text(encoding="utf-8"))
    assert len(set(shown)) == len(shown)
    for module in shown:
        assert importlib.import_module(module).__doc__


def test_modules_with_functions_say_what_is_public() -> None:
    for name in modules():
        module = importlib.import_module(name)
        defined = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and getattr(value, "__module__", None) == name
        ]
        assert not defined or hasattr(module, "__all__"), name
