"""A short run of chapter 19's experiments: python workflows/short_wgan.py FOLDER EXPERIMENT JSON

It goes through all that makes a record (training, scoring on the way, writing), and through no
more. Where the experiment reads images from files, random ones take their place. `replay.py` starts
it with the library of an earlier commit, so it uses what both have.
"""

import json
import sys

import torch

import lipnb.training.wgan_study
from lipnb.data import ImageData
from lipnb.records import snapshot
from lipnb.training.wgan_judge import StudyImages, study_images
from lipnb.training.wgan_study import study_wgan

METHODS = ("alp", "gp", "lp", "clip")


def noise(n: int, seed: int) -> ImageData:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=g)
    return ImageData(f"noise {seed}", images, torch.arange(n) % 2, ("even", "odd"))


def main(folder: str, experiment: str, parameters: str) -> None:
    given = json.loads(parameters)
    data = given.pop("data")
    parts = (
        study_images(data)
        if data == "digits"
        else StudyImages(*map(noise, (400, 50, 50), range(3)))
    )
    torch.set_num_threads(1)
    code = snapshot([lipnb.training.wgan_study])
    study_wgan(METHODS, [0], data=parts, experiment=experiment, folder=folder, code=code, **given)


if __name__ == "__main__":
    main(*sys.argv[1:])
