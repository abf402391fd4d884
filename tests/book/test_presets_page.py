"""The page of presets says what the code says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import presets as page
import pytest

from lipnb.training import wgan_presets
from lipnb.training.wgan_presets import METHODS, PRESETS, preset_rows

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_that_of_the_code() -> None:
    text = (ROOT / "book" / "presets.md").read_text(encoding="utf-8")
    assert text == page.presets(ROOT)
    for name, *values in preset_rows():
        assert f"| `{name}` | {' | '.join(values)} |" in text
    assert all(f"| `{method}` |" in text for method in METHODS)


def test_a_changed_preset_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    before = page.presets(ROOT)
    monkeypatch.setitem(PRESETS, "standard", replace(PRESETS["standard"], latent=64))
    assert wgan_presets.PRESETS is PRESETS
    assert page.presets(ROOT) != before
    assert "| `latent` | 128 | 128 | 128 | 64 |" in page.presets(ROOT)
