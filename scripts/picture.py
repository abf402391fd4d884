"""Draw the picture of the README from the stored networks of the toy: book/_static/toy.png."""

from __future__ import annotations

from lipnb.plotting import panel_grid
from lipnb.records import RESULTS, repository_root
from lipnb.training.toy_figure import load_networks
from lipnb.training.toy_problem import grid, optimum, surfaces

PANELS = {
    "none": "none",
    "SN": "sn",
    "LP, λ = 10": "lp-lambda10",
    "ALP, λ = 1, k = 5": "alp-k5-lambda1",
}


def main() -> None:
    points = grid(240)
    networks = load_networks(RESULTS, 0)
    images = {"exact": optimum(points)[1]}
    images |= {label: surfaces(networks[name], points)[1][0] for label, name in PANELS.items()}
    square = {label: image.view(240, 240) for label, image in images.items()}
    figure = panel_grid(square, columns=5, vmax=1.05, width=8.5)
    path = repository_root() / "book" / "_static" / "toy.png"
    figure.savefig(path, dpi=150, transparent=True)
    print(path)


if __name__ == "__main__":
    main()
