"""A digest sees a changed number, and neither comments, docstrings, layout nor prose."""

from pathlib import Path

import pytest

from lipnb.records import file_digest

CODE = '''"""A module."""

from math import pi


class Ring:
    """A ring."""

    radius: float = 1.5

    def area(self, *, width=0.5) -> str:
        """Its area."""
        # two circles
        return f"{'area'!s}: {2 * pi * self.radius * width:.3f}"
'''
# The same digest in every supported Python: continuous integration runs this on each of them.
KNOWN = "121f8afc1f36e611670094fee6d5f2915ad04728d5179427b6897ae5e973e35c"


def digest(tmp_path, text, name="code.py"):
    path = Path(tmp_path, name)
    path.write_text(text)
    return file_digest(path)


def test_the_digest_is_the_same_in_every_python(tmp_path):
    assert digest(tmp_path, CODE) == KNOWN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# two circles", "# an annulus"),
        ('"""Its area."""', ""),
        ('"""A ring."""', '"""Another text."""'),
        ("0.5", ".50"),
        ("2 * pi", "(2 * pi)"),
        ('"{', '"" f"{'),
        ("\n    radius", "\n\n    radius"),
    ],
)
def test_what_does_not_run_does_not_count(old, new, tmp_path):
    assert old in CODE
    assert digest(tmp_path, CODE.replace(old, new)) == KNOWN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.5", "1.50001"),
        ("width=0.5", "width=True"),
        ("2 * pi", "2 + pi"),
        ("self.radius", "self.height"),
        (".3f", ".4f"),
        ("!s", "!r"),
        (": {", ":: {"),
        ("float", "int"),
        ("import pi", "import pi as pi2"),
        ("class Ring", "class Disc"),
    ],
)
def test_what_runs_counts(old, new, tmp_path):
    assert old in CODE
    assert digest(tmp_path, CODE.replace(old, new)) != KNOWN


CHAPTER = """---
kernelspec:
  name: python3
---

# 18 · The toy

Prose.

```{code-cell} ipython3
:tags: [parameters]

seed: int = 0
```

```{note}
Not code: seed = 1.
```

````{code-cell} ipython3
---
mystnb:
  figure:
    caption: A figure.
---
text = '''
```
'''
````
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Prose.", "Other prose."),
        ("Not code: seed = 1.", "Not code: seed = 2."),
        ("A figure.", "Another caption."),
        ("[parameters]", "[parameters, hide-input]"),
        ("seed: int = 0", "seed: int = 0  # drives everything"),
    ],
)
def test_prose_and_captions_of_a_chapter_do_not_count(old, new, tmp_path):
    before = digest(tmp_path, CHAPTER, "18_toy.md")
    assert old in CHAPTER
    assert digest(tmp_path, CHAPTER.replace(old, new), "18_toy.md") == before


@pytest.mark.parametrize(("old", "new"), [("= 0", "= 1"), ("'''\n```", "'''\n~~~")])
def test_the_cells_of_a_chapter_count(old, new, tmp_path):
    before = digest(tmp_path, CHAPTER, "18_toy.md")
    assert old in CHAPTER
    assert digest(tmp_path, CHAPTER.replace(old, new), "18_toy.md") != before


def test_a_chapter_with_magics_counts_by_its_text(tmp_path):
    magic = CHAPTER.replace("text =", "%matplotlib inline\ntext =")
    before = digest(tmp_path, magic, "18_toy.md")
    assert digest(tmp_path, magic.replace("Prose", "Other"), "18_toy.md") == before
    assert digest(tmp_path, magic.replace("= 0", "= 1"), "18_toy.md") != before


def test_other_files_count_by_their_bytes(tmp_path):
    assert digest(tmp_path, "seeds: 5", "toy.yaml") != digest(tmp_path, "seeds: 6", "toy.yaml")


def test_a_notebook_with_outputs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"wanted the chapter's \.md"):
        digest(tmp_path, "{}", "18_toy.ipynb")
