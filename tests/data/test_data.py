"""lipnb.data: what the loaders return, and the file that an error names."""

from __future__ import annotations

import hashlib
import importlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lipnb.data import ImageData, load_cifar10, load_digit_images, load_image_folder

CLASSES = ["plane", "car", "bird"]


def test_digits_are_those_of_scikit_learn() -> None:
    data, (levels, labels) = load_digit_images(), load_digits(return_X_y=True)
    back = data.images.double().view(1797, 64) * 16 / 255  # the levels again
    assert np.abs(back.numpy() - levels).max() < 0.5 * 16 / 255 + 1e-12
    assert data.labels.tolist() == labels.tolist()
    assert (int(data.images.min()), int(data.images.max())) == (0, 255)
    assert data.sha256 == load_digit_images().sha256


def test_the_digest_sees_one_pixel_one_label_and_the_shape() -> None:
    data = load_digit_images()
    pixel, label = data.images.clone(), data.labels.clone()
    pixel[5, 0, 3, 3] ^= 1
    label[7] = (label[7] + 1) % 10
    other = [
        ImageData("", pixel, data.labels, data.classes),
        ImageData("", data.images, label, data.classes),
        ImageData("", data.images.view(-1, 1, 4, 16), data.labels, data.classes),
    ]
    assert len({data.sha256, *(d.sha256 for d in other)}) == 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), "images must be uint8"),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), "images must be uint8 of shape"),
        (torch.zeros(0, 1, 4, 4).byte(), torch.zeros(0).long(), "none of them 0"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), r"labels must be int64 of shape"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0, 1]), "labels must lie from 0 to 0"),
    ],
)
def test_other_data_are_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData("x", images, labels, ("one",))


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """Files of the form of CIFAR-10 with two images each, under digests of their own."""
    kind = importlib.import_module("torchvision.datasets").CIFAR10
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3 * 32 * 32), dtype=np.uint8)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    names = [name for name, _ in [*kind.train_list, *kind.test_list]]
    lists = [
        [name, write(name, {"data": pixels[2 * i : 2 * i + 2], "labels": [i % 3, 2]})]
        for i, name in enumerate(names)
    ]
    meta = {"filename": "batches.meta", "key": "label_names"}
    meta["md5"] = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(kind, "train_list", lists[:5])
    monkeypatch.setattr(kind, "test_list", lists[5:])
    monkeypatch.setattr(kind, "meta", meta)
    return folder, pixels.reshape(-1, 3, 32, 32)


def test_cifar10_is_read_as_written(cifar: tuple[Path, np.ndarray]) -> None:
    folder, pixels = cifar
    for split, rows in (("train", slice(0, 10)), ("test", slice(10, 12)), ("all", slice(0, 12))):
        data = load_cifar10(folder.parent, split=split)
        assert np.array_equal(data.images.numpy(), pixels[rows])
        assert data.name == f"CIFAR-10, {split}"
    assert data.labels.tolist() == [0, 2, 1, 2, 2, 2, 0, 2, 1, 2, 2, 2]
    assert data.classes == tuple(CLASSES)


def test_cifar10_names_the_file_that_is_damaged_or_missing(cifar: tuple[Path, np.ndarray]) -> None:
    folder, _ = cifar
    content = bytearray((folder / "data_batch_3").read_bytes())
    content[-100] ^= 1
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_3 must have the published MD5"):
        load_cifar10(folder.parent)
    (folder / "data_batch_2").unlink()
    with pytest.raises(FileNotFoundError, match=r"the file .*data_batch_2; it is missing"):
        load_cifar10(folder.parent)
    with pytest.raises(ValueError, match="split must be one of"):
        load_cifar10(folder.parent, split="validation")


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)
    for row, image in enumerate(pixels):
        place = tmp_path / "pictures" / "ba"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no image")
    (tmp_path / "pictures" / "a" / "list.csv").write_text("no image")
    (tmp_path / "pictures" / ".hidden").mkdir()
    return tmp_path / "pictures", pixels


def test_a_folder_is_read_class_by_class(folder: tuple[Path, np.ndarray]) -> None:
    root, pixels = folder
    data = load_image_folder(root)
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(data.images.numpy(), pixels[[1, 3, 5, 0, 2, 4]].transpose(0, 3, 1, 2))
    assert data.name == "pictures"
    grey = load_image_folder(root, channels=1, name="grey ones")
    assert (grey.shape, grey.name) == ((1, 9, 7), "grey ones")


def test_a_folder_names_the_file_that_is_damaged_or_of_another_size(
    folder: tuple[Path, np.ndarray],
) -> None:
    root, _ = folder
    Image.new("RGB", (9, 9)).save(root / "b" / "3.png")
    with pytest.raises(ValueError, match=r"7 x 9 pixels, but .*b/3\.png has 9 x 9"):
        load_image_folder(root)
    whole = (root / "b" / "0.png").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not an image"):
        (root / "b" / "0.png").write_bytes(broken)
        with pytest.raises(ValueError, match=r"b/0\.png must be an image; it cannot be decoded"):
            load_image_folder(root)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_image_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds none"):
        load_image_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds none"):
        load_image_folder(tmp_path)
    with pytest.raises(ValueError, match="channels must be 1 or 3; got 4"):
        load_image_folder(tmp_path, channels=4)
