"""The sweep over methods and seeds: scores with a known answer, records, kills, failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lipnb.training.wgan_study
from lipnb.evaluation import FeatureExtractor
from lipnb.records import read_experiment, snapshot
from lipnb.training.wgan_judge import Judge, StudyImages, make_judge, study_images
from lipnb.training.wgan_scored import WganResult
from lipnb.training.wgan_study import study_wgan, wgan_rows

DATA = study_images("digits", 100)
SETTINGS: dict[str, Any] = {
    "data": DATA,
    "iterations": 6,
    "changes": {
        "channels": 4,
        "generator_channels": 4,
        "latent": 3,
        "batch": 8,
        "generator_batch": 8,
        "critic_steps": 2,
        "learning_rate": 1e-2,
        "radius": [0.1, 1.0],
        "xi": 1.0,
    },
    "score_every": 2,
    "log_every": 2,
    "classifier": {"epochs": 3, "width": 8},
}


@pytest.fixture(scope="module", name="judge")
def judge_fixture() -> Judge:
    return make_judge(DATA)


def test_the_parts_share_no_image_and_are_the_same_each_time() -> None:
    whole = study_images("digits")
    assert [len(part) for part in whole] == [997, 400, 400]
    rows = torch.cat([part.images for part in whole]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == 1797
    assert study_images("digits").reference.sha256 == whole.reference.sha256
    assert torch.equal(whole.reference.images[:100], DATA.reference.images)


def test_scores_with_a_known_answer(judge: Judge) -> None:
    """The reference scored against itself; one image many times has one class, recalls itself."""
    same = judge.score(DATA.reference.images)
    assert same["feature_frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert same["feature_wasserstein1"] == pytest.approx(0, abs=1e-6)
    assert same["precision"] == same["recall"] == 1
    one = judge.score(DATA.reference.images[:1].expand(100, -1, -1, -1))
    assert one["class_score"] == pytest.approx(1, abs=1e-6)
    assert one["recall"] == 0.01
    centre = judge.reference[0].double()
    distance = (judge.reference.double() - centre).norm(dim=1).mean().item()
    assert one["feature_wasserstein1"] == pytest.approx(distance, rel=1e-6)


def test_real_images_score_better_than_noise(judge: Judge) -> None:
    g = torch.Generator().manual_seed(0)
    noise = judge.score(torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8, generator=g))
    assert judge.real["feature_frechet_distance"] < 0.2 * noise["feature_frechet_distance"]
    assert judge.real["feature_wasserstein1"] < 0.7 * noise["feature_wasserstein1"]
    assert judge.real["classifier_accuracy"] > 0.9


def test_only_inception_scores_are_called_so(judge: Judge) -> None:
    assert not {"fid", "kid", "inception_score"} & set(judge.real)
    assert judge.protocol["extractor"].startswith("classifier of digits")


def test_final_best_and_real_stand_apart() -> None:
    result = study_wgan(["alp"], [3], **SETTINGS)["alp", 3]
    assert [line["step"] for line in result.scores] == [2, 4, 6]
    distances = [line["feature_frechet_distance"] for line in result.scores]
    assert result.metrics["final.feature_frechet_distance"] == distances[-1]
    assert result.metrics["best.feature_frechet_distance"] == min(distances)
    best = distances.index(min(distances))
    assert result.metrics["best.iteration"] == result.scores[best]["step"]
    assert result.metrics["best.precision"] == result.scores[best]["precision"]
    assert result.metrics["real.classifier_accuracy"] > 0
    assert result.metrics.keys() == result.counts.keys()
    assert result.metrics["gradient_norm_real_1"] >= result.metrics["gradient_norm_real_0.5"] > 0
    assert torch.equal(result.samples, result.run.sample(100, 3))
    assert wgan_rows({("alp", 3): result})[0]["method"] == "alp"


def same(one: WganResult, other: WganResult, differing: Callable[[Any, Any], list[str]]) -> bool:
    """Tell whether two runs are equal in every bit, their times aside."""
    for a, b in zip(one.scores, other.scores, strict=True):
        assert differing({**a, "cpu_seconds": 0}, {**b, "cpu_seconds": 0}) == []
    assert differing({**one.metrics, "cpu_seconds": 0}, {**other.metrics, "cpu_seconds": 0}) == []
    for name in ("critic", "generator"):
        states = [getattr(r.run, name).state_dict() for r in (one, other)]
        assert differing(*states) == []
    return torch.equal(one.samples, other.samples) and one.history == other.history


class Broken(RuntimeError):
    """What stops a run in these tests."""


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_stopped_before_its_scores_were_stored_ends_alike(
    at: int,
    tmp_path: Path,
    differing: Callable[[Any, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SETTINGS | {"checkpoints": tmp_path, "checkpoint_every": 1}
    seen = []

    def stop(self: Judge, images: torch.Tensor) -> dict[str, float]:
        seen.append(images)
        if len(seen) == at:
            raise Broken
        return score(self, images)

    score = Judge.score
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "score", stop)
        with pytest.raises(ExceptionGroup) as caught:
            study_wgan(["gp"], [0], **settings)
        assert caught.group_contains(Broken)
    resumed = study_wgan(["gp"], [0], **settings)["gp", 0]
    again = study_wgan(["gp"], [0], **settings)["gp", 0]  # complete: nothing is trained
    whole = study_wgan(["gp"], [0], **SETTINGS)["gp", 0]
    assert same(resumed, whole, differing)
    assert same(again, whole, differing)


def test_another_seed_is_another_run(differing: Callable[[Any, Any], list[str]]) -> None:
    found = study_wgan(["gp"], [0, 1], **SETTINGS)
    with pytest.raises(AssertionError):
        same(found["gp", 0], found["gp", 1], differing)


def test_several_processes_find_the_same(differing: Callable[[Any, Any], list[str]]) -> None:
    """Spectral normalisation too, which cannot be pickled."""
    found = study_wgan(["sn", "alp"], [0], processes=2, **SETTINGS)
    alone = study_wgan(["sn", "alp"], [0], **SETTINGS)
    assert list(found) == list(alone) == [("sn", 0), ("alp", 0)]
    assert all(same(found[key], alone[key], differing) for key in alone)


def test_records_scores_and_grids(tmp_path: Path) -> None:
    state = snapshot([lipnb.training.wgan_study])
    settings = SETTINGS | {"folder": tmp_path, "code": state, "experiment": "sweep"}
    found = study_wgan(["alp"], [0], **settings)
    (record,) = read_experiment("sweep", tmp_path)
    assert record["data"] == {"name": DATA.train.name, "sha256": DATA.train.sha256}
    assert record["parameters"]["objective"] == "alp"
    assert record["parameters"]["score.reference_size"] == 100
    assert record["metrics"]["final.recall"]["n"] == 100
    assert record["metrics"]["final.recall"]["value"] == found["alp", 0].metrics["final.recall"]
    assert "lipnb/training/wgan_steps.py" in record["code"]
    lines = (tmp_path / "sweep" / "alp-seed0.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == found["alp", 0].scores[-1]
    grid = tmp_path / "sweep" / "alp-seed0.png"
    assert 500 < grid.stat().st_size < 60_000
    with Image.open(grid) as image:
        assert image.size == (71, 71)
    before = grid.stat().st_mtime_ns
    assert list(study_wgan(["alp", "gp"], [0], **settings)) == [("gp", 0)]
    assert grid.stat().st_mtime_ns == before


def test_a_run_that_fails_leaves_the_others_whole(tmp_path: Path) -> None:
    state = snapshot([lipnb.training.wgan_study])
    places: dict[str, Any] = {
        "folder": tmp_path / "results",
        "checkpoints": tmp_path / "states",
        "code": state,
    }
    bad = tmp_path / "states" / "wgan" / "gp-seed0" / "checkpoint.pt"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"something else")
    with pytest.raises(ExceptionGroup, match="1 of 3 runs failed") as caught:
        study_wgan(["gp", "alp", "clip"], [0], **SETTINGS, **places)
    (error,) = caught.value.exceptions
    assert "must be a checkpoint" in str(error)
    assert error.__notes__ == ["in wgan, gp, seed 0"]
    records = read_experiment("wgan", tmp_path / "results")
    assert [r["method"] for r in records] == ["alp", "clip"]


def test_the_classifier_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"epochs": 1, "width": 8}
    first = make_judge(DATA, cache=tmp_path, classifier=how)
    monkeypatch.delattr("lipnb.training.wgan_judge.train_classifier")
    second = make_judge(DATA, cache=tmp_path, classifier=how)
    assert first.extractor.sha256 == second.extractor.sha256
    assert first.real == second.real
    with pytest.raises(NameError):
        make_judge(DATA, cache=tmp_path, classifier=how | {"width": 4})


def test_class_folders_are_split_as_they_say(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("test", 4)):
        for kind in ("a", "b"):
            folder = tmp_path / "cifar10_jpeg" / split / kind
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (32, 32), (i, n, 0)).save(folder / f"{i}.png")
    train, reference, calibration = study_images(f"folder:{tmp_path / 'cifar10_jpeg'}")
    assert train.name == "CIFAR-10 (JPEG copies), train"
    assert reference.name == "CIFAR-10 (JPEG copies), test, held out, first half"
    assert [len(train), len(reference), len(calibration)] == [6, 4, 4]
    assert set(train.images[:, 1].flatten().tolist()) == {3}
    assert set(reference.images[:, 1].flatten().tolist()) == {4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["alp", "wgan"]}, r"methods must be among .*; got \['wgan'\]"),
        ({"folder": "somewhere"}, "records need a snapshot of the code"),
        ({"processes": 0}, "processes must be at least 1; got 0"),
        ({"processes": 2, "inception": "w.pth"}, "processes must be 1 with Inception; got 2"),
        ({"preset": "author_code"}, "split must be 'train'; got 'all'"),
        ({"data": "faces"}, "data must be digits, folder:PATH or cifar10:PATH; got 'faces'"),
        ({"data": "digits", "samples": 401}, "samples must be from 2 to 400"),
        (
            {"data": StudyImages(DATA.train, DATA.reference, DATA.train)},
            "of one size; got 100 and 997",
        ),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"methods": ["gp"], "seeds": [0], **SETTINGS, **changes}
    with pytest.raises(ValueError, match=message):
        study_wgan(**given)


def test_inception_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = images.flatten(1).float()
        return x[:, :5], x[:, 5:9]

    fake = FeatureExtractor("inception-2015-12-05", "0" * 64, True, compute)
    monkeypatch.setattr("lipnb.training.wgan_judge.inception_extractor", lambda path, device: fake)
    result = study_wgan(["gp"], [0], **SETTINGS, inception="weights.pth")["gp", 0]
    assert {"final.fid", "best.kid", "real.inception_score"} <= set(result.metrics)
    assert "final.feature_frechet_distance" not in result.metrics
