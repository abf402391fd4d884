"""A short run of chapter 12's experiment: python workflows/short_critics.py FOLDER EXPERIMENT JSON

It goes through all that makes a record (training of every method, judging, writing), and through
no more. `replay.py` starts it with the library of an earlier commit, so it uses what both have.
"""

import json
import sys

import torch

import lipnb.training.critic_study
from lipnb.records import snapshot
from lipnb.training.critic_methods import METHODS
from lipnb.training.critic_study import CriticSettings, study_critics


def main(folder: str, experiment: str, parameters: str) -> None:
    given = json.loads(parameters)
    settings = CriticSettings(tuple(given.pop("problems")), **given)
    torch.set_num_threads(1)
    code = snapshot([lipnb.training.critic_study])
    study_critics(
        METHODS, [0], settings, processes=1, folder=folder, experiment=experiment, code=code
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
