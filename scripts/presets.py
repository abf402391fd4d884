"""The page book/presets.md, from the presets of the training engine; see scripts/pages.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger import table

from lipnb.training.wgan_presets import METHODS, PRESETS, preset_rows

HEAD = """(presets)=
# Presets of the image experiments

<!-- Written by scripts/pages.py from lipnb/training/wgan_presets.py; do not edit. -->

A Wasserstein GAN on images has some forty choices. A paper states a part of them, its code makes
the rest, and often the two differ. `lipnb.training.wgan_presets` gives names to four sets of
choices:

- `paper`: WGAN-ALP as printed {cite:p}`terjek2020adversarial`. What the paper leaves open is as
  in `gulrajani`, on whose networks and schedule it builds.
- `author_code`: the defaults of the code published with that paper.
- `gulrajani`: WGAN-GP {cite:p}`gulrajani2017improved`, as its published code trains without
  labels.
- `standard`: ours. The paper's penalty, with what later repositories share: mirrored images,
  running statistics for samples, and the generator after the critic.

## Where they differ

Each name is an attribute of `WganSettings`, explained in the {ref}`api`. Whatever is not in the
table is the same in all four.

"""

CODE = """
## What the author's code does beyond its preset

Two details are not copied. Its running statistics move twice in a generator step, ours once. Its
running mean is corrected for its zero start, which matters in the first tens of steps. It also
makes passes whose results it has already, which changes nothing. It trains on all 60 000 images
of CIFAR-10, the test set among them; `split` says so, and a comparison with scores on the test
set has to say it too.

## What a method changes

Each method changes a preset by the numbers of its own source. `lp` and `explicit` take the weight
of `gp`: the weight behind the published score of WGAN-LP is not known to us. `clip` takes five
critic steps like the rest, where the first code took a hundred in the first 25 iterations.
`banach` finds its weight in the data. Whatever else a source trains differently, such as its
images or its sampling, stays as in the preset, so that methods are compared under equal
conditions.

"""

TAIL = """
## Train one

```bash
python -m lipnb.training.wgan --preset standard --data digits --output _build/digits \\
    --steps 300 --set channels 32 --set generator_channels 32 --set latent 16
```

The run may be stopped at any time; with `--resume` it continues from its last checkpoint. `--data
cifar10:FOLDER` takes CIFAR-10 in its original files, `--data folder:FOLDER` any folder with one
folder a class, and `--set NAME VALUE` any choice above.

On a machine with a GPU, `--device cuda --channels-last --tf32 --graph` keep the images on the
device, lay out channels last, multiply in TF32, and replay a whole iteration as one CUDA graph.
`--bfloat16` first measures its error in the quotient at the smallest radius, and stops if it is
too large. We have tested these options as far as a CPU can test them, and have not yet run them
on a GPU.
"""


def changed(method: str, changes: Mapping[str, Any]) -> list[str]:
    """One line: a method, and what it sets."""
    shown = (f"`{name} = {value!r}`" for name, value in changes.items() if name != "objective")
    return [f"`{method}`", f"`{changes['objective']}`", ", ".join(shown)]


def presets(root: Path) -> str:
    """The page book/presets.md; it depends on the code alone."""
    same = len(asdict(PRESETS["paper"])) - len(preset_rows())
    rows = [[f"`{name}`", *values] for name, *values in preset_rows()]
    text = HEAD + table(["choice", *(f"`{name}`" for name in PRESETS)], rows)
    text += f"\n{same} further choices are the same in all.\n" + CODE
    text += table(["method", "objective", "sets"], (changed(*item) for item in METHODS.items()))
    return text + TAIL
