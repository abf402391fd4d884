"""Local Sphinx extension: reference list, names of the library, theme fix, smaller MathJax."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment


class KeyLabels(BaseLabelStyle):
    """Citations in the text read "author, year", so the list needs no labels.

    The entry's key is a label that is unique in the whole book; lipnb.css hides it.
    """

    def format_labels(self, sorted_entries: list[Any]) -> list[str]:
        return [entry.key for entry in sorted_entries]


class ReferenceList(Style):
    """Sorted by author and year."""

    default_sorting_style = "author_year_title"
    default_label_style = KeyLabels


def theme_options(app: Sphinx, config: Config) -> None:
    """Without these, pydata-sphinx-theme 0.17 adds a second search bar and the phone menu is dead."""
    config.html_theme_options.setdefault("navbar_persistent", [])
    config.html_theme_options.setdefault("navbar_end", [])


def public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.reference | None:
    """Find lipnb.part.file.Name, where Name is defined, as lipnb.part.Name, where it is documented."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("lipnb."):
        return None
    domain = env.get_domain("py")
    last = target.rpartition(".")[2]
    names = [name for name in domain.objects if name.rpartition(".")[2] == last]
    # the documented name shares the longest beginning with the one that was asked for
    parts = target.split(".")[:-1]
    names = [name for name in names if name.split(".")[:-1] == parts[: name.count(".")]]
    if not names:
        return None
    found = domain.objects[max(names, key=len)]
    uri = app.builder.get_relative_uri(node["refdoc"], found.docname)
    reference = nodes.reference("", "", internal=True, refuri=f"{uri}#{found.node_id}")
    return reference + contnode


def api_member(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any
) -> bool | None:
    """List every name of a module's __all__, but not again what its package already exports."""
    if what != "module":
        return None
    module = sys.modules[app.env.temp_data["autodoc:module"]]
    package = sys.modules[module.__name__.rpartition(".")[0] or module.__name__]
    if module is not package and name in getattr(package, "__all__", ()):
        return True
    return False if name in getattr(module, "__all__", ()) else None


def trim_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Delete the parts of the bundled MathJax that no page uses (two thirds of the site)."""
    root = Path(app.outdir) / "_static" / "mathjax"
    if exception or not root.is_dir():
        return
    folders = ("output/chtml/fonts", "input/tex/extensions")
    for path in sorted(root.rglob("*"), reverse=True):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif name != "tex-chtml.js" and not name.startswith(folders):
            path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    register_plugin("pybtex.style.formatting", "lipnb", ReferenceList)
    app.connect("config-inited", theme_options, priority=900)
    app.connect("missing-reference", public_name)
    app.connect("autodoc-skip-member", api_member)
    app.connect("build-finished", trim_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
