"""A short run of chapter 18's experiment: python workflows/short_toy.py FOLDER EXPERIMENT JSON

It goes through all that makes a record (training of every panel, judging, writing), and through no
more. `replay.py` starts it with the library of an earlier commit, so it uses what both have.
"""

import json
import sys

import torch

import lipnb.training.toy_figure
from lipnb.records import snapshot
from lipnb.training.toy import PANELS, Settings
from lipnb.training.toy_figure import record_figure, train_figure


def main(folder: str, experiment: str, parameters: str) -> None:
    given = json.loads(parameters)
    wanted = given.pop("panels")
    claims = [p for p in PANELS if p.name in ("none", "sn", "lp-lambda10", "alp-k5-lambda1")]
    chosen = [(p, twin) for p in (PANELS if wanted == "all" else claims) for twin in (False, True)]
    torch.set_num_threads(1)
    code = snapshot([lipnb.training.toy_figure])
    runs = train_figure(chosen, [0], Settings(**given), processes=1)
    record_figure(runs, folder=folder, experiment=experiment, code=code)


if __name__ == "__main__":
    main(*sys.argv[1:])
