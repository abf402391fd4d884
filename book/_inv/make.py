"""Write the small Sphinx inventories beside this file.

python book/_inv/make.py: then commit the .inv files. A build with -n asks for every foreign name
in a signature; a name that is missing here is added to the table below.
"""

from __future__ import annotations

import zlib
from pathlib import Path

PYTHON = {
    "library/functions.html#{}": "bool float int object",
    "library/functions.html#func-{}": "dict list range set tuple frozenset",
    "library/stdtypes.html#{}": "str bytes",
    "library/constants.html#{}": "None Ellipsis",
    "library/exceptions.html#{}": "AssertionError ImportError KeyError RuntimeError TypeError "
    "ValueError FileNotFoundError FloatingPointError ZeroDivisionError OSError NotImplementedError",
    "library/typing.html#{}": "typing.Any typing.Literal typing.NamedTuple typing.TypedDict "
    "typing.Protocol typing.Self typing.Final typing.Union typing.Optional typing.Generic",
    "library/collections.abc.html#{}": "collections.abc.Callable collections.abc.Iterable "
    "collections.abc.Iterator collections.abc.Sequence collections.abc.Mapping "
    "collections.abc.MutableMapping collections.abc.Generator collections.abc.Hashable "
    "collections.abc.Collection",
    "library/pathlib.html#{}": "pathlib.Path os.PathLike",
    "library/dataclasses.html#{}": "dataclasses.dataclass",
    "library/datetime.html#{}": "datetime.datetime datetime.date",
    "library/types.html#{}": "types.ModuleType types.TracebackType",
    "library/contextlib.html#{}": "contextlib.AbstractContextManager",
}
TORCH = {
    "tensors.html#{}": "torch.Tensor",
    "generated/{0}.html#{0}": "torch.Generator torch.nn.Module torch.nn.Linear torch.nn.Sequential "
    "torch.nn.Parameter torch.nn.parameter.Parameter torch.nn.Conv2d torch.nn.ReLU "
    "torch.nn.Identity torch.optim.Adam torch.optim.SGD torch.optim.RMSprop "
    "torch.nn.LeakyReLU torch.nn.ModuleList",
    "tensor_attributes.html#{}": "torch.device torch.dtype torch.torch.dtype torch.layout",
    "optim.html#{}": "torch.optim.Optimizer torch.optim.optimizer.Optimizer",
    "size.html#{}": "torch.Size",
    "data.html#{}": "torch.utils.data.Dataset torch.utils.data.DataLoader",
}
NUMPY = {
    "reference/generated/{0}.html#{0}": "numpy.ndarray numpy.dtype numpy.generic numpy.floating "
    "numpy.integer numpy.bool",
    "reference/arrays.scalars.html#{}": "numpy.float64 numpy.float32 numpy.int64 numpy.bool_",
    "reference/random/generator.html#{}": "numpy.random.Generator",
    "reference/typing.html#{}": "numpy.typing.NDArray numpy.typing.ArrayLike",
}
MATPLOTLIB = {
    "api/figure_api.html#{}": "matplotlib.figure.Figure matplotlib.figure.SubFigure",
    "api/_as_gen/{0}.html#{0}": "matplotlib.axes.Axes matplotlib.lines.Line2D "
    "matplotlib.image.AxesImage matplotlib.colors.Colormap matplotlib.colorbar.Colorbar",
    "api/_as_gen/matplotlib.pyplot.subplots.html#{}": "matplotlib.pyplot.subplots",
}
PANDAS = {"reference/api/{0}.html#{0}": "pandas.DataFrame pandas.Series"}
# What Sphinx asks for in a signature where the documentation has another kind of object.
FUNCTIONS = {"matplotlib.pyplot.subplots", "dataclasses.dataclass"}
DATA = {"None", "Ellipsis", "typing.Any", "typing.Literal", "numpy.typing.NDArray"}


def rows(table: dict[str, str]) -> list[str]:
    """One line for each name, and for each role under which it may be asked for."""
    found = []
    for page, names in table.items():
        for name in names.split():
            kinds = ["py:function"] if name in FUNCTIONS else ["py:class"]
            if name in DATA:
                kinds += ["py:data", "py:obj"]
            if name.endswith("Error"):
                kinds.append("py:exception")
            found += [f"{name} {kind} 1 {page.format(name)} -" for kind in kinds]
    return found


def write(name: str, table: dict[str, str]) -> None:
    """Write one inventory in version 2 of the format."""
    head = (
        f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    body = "\n".join(rows(table)) + "\n"
    path = Path(__file__).with_name(f"{name}.inv")
    path.write_bytes(head.encode() + zlib.compress(body.encode(), 9))


if __name__ == "__main__":
    write("python", PYTHON)
    write("torch", TORCH)
    write("numpy", NUMPY)
    write("matplotlib", MATPLOTLIB)
    write("pandas", PANDAS)
