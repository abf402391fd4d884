"""Local Sphinx extension: reference list, names of the library, theme fix, smaller MathJax."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar, Union

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors.toctree import TocTreeCollector
from sphinx.ext.intersphinx import missing_reference
from sphinx.util.inspect import TypeAliasForwardRef

SHORT = {
    "Tensor": "torch.Tensor",
    "ndarray": "numpy.ndarray",
    "ArrayLike": "numpy.typing.ArrayLike",
    "NDArray": "numpy.typing.NDArray",
    "nn.Module": "torch.nn.Module",
}


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
    """Without these, pydata-sphinx-theme 0.17 shows two search bars and a dead phone menu."""
    config.html_theme_options.setdefault("navbar_persistent", [])
    config.html_theme_options.setdefault("navbar_end", [])


def public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Node | None:
    """Find a name that is defined in one module and documented in another.

    Signatures name where a class is defined (lipnb.part.file.Name, torch.nn.modules.linear.Linear);
    readers and inventories know it as lipnb.part.Name and torch.nn.Linear.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    module, _, name = target.rpartition(".")
    if isinstance(getattr(sys.modules.get(module), name, None), TypeVar):
        return contnode  # it stands for any type: nothing to link to
    parts = SHORT.get(target, target).replace("._C.", ".").split(".")
    # the documented name shares the longest beginning with the one that was asked for
    names = [".".join([*parts[:n], parts[-1]]) for n in range(len(parts) - 1, 0, -1)]
    objects = env.get_domain("py").objects
    for name in names:
        if name in objects:
            uri = app.builder.get_relative_uri(node["refdoc"], objects[name].docname)
            link = nodes.reference("", "", internal=True, refuri=f"{uri}#{objects[name].node_id}")
            return link + contnode
        node["reftarget"] = name
        found = missing_reference(app, env, node, contnode)
        if found is not None:
            return found
    node["reftarget"] = target
    return None


def number_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Number figures, equations and theorems within a chapter: 18.3 is the third of chapter 18.

    The number is the one in the chapter's file name, so it stays when other chapters are added.
    """
    plain = env.toc_secnumbers
    found = {name: re.match(r"notebooks/(\d+)_", name) for name in env.found_docs}
    chapters = {name: {"": (int(match[1]),)} for name, match in found.items() if match}
    env.toc_secnumbers = plain | chapters
    changed = TocTreeCollector().assign_figure_numbers(env)
    env.toc_secnumbers = plain  # headings bear their numbers already
    return changed


def without_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Leave out the scripts for live code, which this book does not use (and which load twice)."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{getattr(script, 'filename', script)} {dict(script.attributes)}".lower()
    ]


def union_with_alias(self: TypeAliasForwardRef, other: Any) -> Any:
    """Let `Alias | None` in a signature be read; Sphinx 7 knows only `Optional[Alias]`."""
    return Union[self, other]  # noqa: UP007 (| is what is being defined)


def plain_footnotes(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Make footnotes of docstrings a list; on the page that shows them all, labels would clash."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"\[(\d+)\]_", r"[\1]", re.sub(r"^(\s*)\.\. (\[\d+\])", r"\1-  \2", line))


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
    TypeAliasForwardRef.__or__ = TypeAliasForwardRef.__ror__ = union_with_alias
    app.connect("config-inited", theme_options, priority=900)
    app.connect("missing-reference", public_name)
    app.connect("autodoc-skip-member", api_member)
    app.connect("autodoc-process-docstring", plain_footnotes, priority=900)
    app.connect("env-get-updated", number_by_chapter, priority=900)
    app.connect("html-page-context", without_thebe, priority=900)
    app.connect("build-finished", trim_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
