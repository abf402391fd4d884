"""One look for every figure of the book: style, sizes, and one colour per method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

__all__ = ["GREY", "METHOD_COLOURS", "METHOD_NAMES", "colour", "figure", "panel_grid", "use_style"]

# Readable on a white and on a black page, because figures are drawn transparent.
GREY = "#7f7f7f"

# Okabe-Ito hues (safe for colour-blind readers), extended by two earth tones.
METHOD_COLOURS = {
    "exact": GREY,
    "none": "#a6761d",
    "weight_clipping": "#cc79a7",
    "spectral_norm": "#009e73",
    "orthogonal": "#1b9e9e",
    "gradient_penalty": "#56b4e9",
    "lipschitz_penalty": "#0072b2",
    "explicit_penalty": "#e69f00",
    "adversarial_lipschitz_penalty": "#d55e00",
    "virtual_adversarial": "#9467bd",
}

METHOD_NAMES = {
    "exact": "exact",
    "none": "none",
    "weight_clipping": "clipping",
    "spectral_norm": "SN",
    "orthogonal": "orthogonal",
    "gradient_penalty": "GP",
    "lipschitz_penalty": "LP",
    "explicit_penalty": "explicit LP",
    "adversarial_lipschitz_penalty": "ALP",
    "virtual_adversarial": "VAT",
}


def colour(method: str) -> str:
    """Return the colour that `method` has everywhere in the book.

    Parameters
    ----------
    method : str
        A key of `METHOD_COLOURS`.

    Returns
    -------
    str
        A hexadecimal colour.

    Raises
    ------
    ValueError
        If the method has no colour.

    Examples
    --------
    >>> colour("spectral_norm")
    '#009e73'
    """
    if method not in METHOD_COLOURS:
        raise ValueError(f"method must be one of {sorted(METHOD_COLOURS)}; got {method!r}")
    return METHOD_COLOURS[method]


def use_style() -> None:
    """Switch matplotlib to the style of the book.

    Figures are transparent with mid-grey axes, so that one image suits the light and the dark page.

    Examples
    --------
    >>> use_style()
    >>> plt.rcParams["lines.linewidth"]
    2.0
    """
    plt.rcParams.update(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "figure.dpi": 130,
            "font.size": 9.5,
            "text.color": GREY,
            "axes.edgecolor": GREY,
            "axes.labelcolor": GREY,
            "axes.titlecolor": GREY,
            "axes.titlesize": 9.5,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=[c for c in METHOD_COLOURS.values() if c != GREY]),
            "xtick.color": GREY,
            "ytick.color": GREY,
            "grid.color": GREY,
            "grid.alpha": 0.25,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "image.cmap": "gray",
            "svg.hashsalt": "lipnb",
        }
    )


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 6.6,
    height: float | None = None,
    **kwargs: Any,
) -> tuple[Figure, Any]:
    """Open a figure of the book's width with a grid of axes.

    Parameters
    ----------
    rows, columns : int
        The grid.
    width, height : float
        Size in inches; by default each panel is about 5:4.
    **kwargs
        Passed to `matplotlib.pyplot.subplots`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : Axes or ndarray of Axes

    Examples
    --------
    >>> fig, ax = figure()
    >>> ax.get_xlabel()
    ''
    """
    use_style()
    height = height if height is not None else width / columns * 0.72 * rows + 0.3
    return plt.subplots(rows, columns, figsize=(width, height), constrained_layout=True, **kwargs)


def panel_grid(
    images: Mapping[str, Any],
    *,
    columns: int = 4,
    extent: tuple[float, float, float, float] | None = None,
    vmax: float = 1.0,
    over: str | None = None,
    width: float = 6.6,
) -> Figure:
    """Draw named images on one grey scale, with one colour for everything above it.

    Parameters
    ----------
    images : mapping
        Name to array (rows, columns); names stand above the panels.
    columns : int
        Panels per row.
    extent : (left, right, bottom, top), optional
        Coordinates of the edges.
    vmax : float
        Value drawn white; 0 is black.
    over : str, optional
        Colour of values above `vmax`; by default that of the adversarial penalty.
    width : float
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, with one colour bar.

    Raises
    ------
    ValueError
        If there are no images.

    Examples
    --------
    >>> fig = panel_grid({"flat": [[0.0, 0.5]], "steep": [[1.0, 2.0]]}, columns=2)
    >>> len(fig.axes)  # two panels and the colour bar
    3
    """
    if not images:
        raise ValueError("images must not be empty; got none")
    rows = -(-len(images) // columns)
    fig, axes = figure(
        rows, columns, width=width, height=width / columns * 1.14 * rows, squeeze=False
    )
    scale = plt.get_cmap("gray").with_extremes(
        over=over or METHOD_COLOURS["adversarial_lipschitz_penalty"]
    )
    for ax, (name, image) in zip(axes.flat, images.items(), strict=False):
        ax.imshow(image, cmap=scale, vmin=0, vmax=vmax, origin="lower", extent=extent)
        ax.set_title(name, fontsize=8.5)
    for ax in axes.flat:
        ax.set_axis_off()
    bar = fig.colorbar(
        axes.flat[0].images[0], ax=axes, extend="max", shrink=0.6 / rows**0.5, aspect=24, pad=0.02
    )
    bar.set_label("gradient norm")
    return fig
