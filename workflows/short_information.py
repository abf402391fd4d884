"""A short run of chapter 21's study: python workflows/short_information.py FOLDER EXPERIMENT JSON

It goes through all that makes a record (data, training of every method, judging, writing), and
through no more. `replay.py` starts it with the library of an earlier commit, so it uses what both
have.
"""

import json
import sys

import torch

import lipnb.training.information_parts as parts
from lipnb.records import snapshot
from lipnb.training.information_study import study_information


def main(folder: str, experiment: str, parameters: str) -> None:
    if json.loads(parameters) != {"size": "short"}:
        raise SystemExit(f'wanted {{"size": "short"}}; got {parameters}')
    settings = parts.InformationSettings(
        steps=20,
        rows=300,
        correlations=((2, (0.0, 0.9)), (20, (0.5,))),
        ladder=(0, 4),
        nats=(1, 6),
        constants=(1, 4),
        sizes=(100,),
        digits=(1, 2),
    )
    torch.set_num_threads(1)
    study_information(
        [f"{part}.{name}" for part, (_, names) in parts.PARTS.items() for name in names],
        [0],
        settings,
        folder=folder,
        experiment=experiment,
        code=snapshot([parts]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
