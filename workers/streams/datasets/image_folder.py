"""A folder of images per class, read through Pillow; images are decoded when first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from workers.contract import InputError
from workers.streams.datasets.base import Dataset, PartName
from workers.tables import Problem

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif"})
ANNOTATIONS = "val_annotations.txt"

Listing = list[tuple[Path, str]]
"""(image, class name) of every image of a part, sorted by class and path."""


class ImageFolder(Dataset):
    """Your own images: one folder per class, with train/ and test/ (or val/) or without.

    Where there are train/, val/ and test/, val/ is the validation part.

    Also reads the folder layouts that Tiny-ImageNet (``images/`` inside each class,
    ``val/val_annotations.txt``) and CIFAR's PNG exports have. Classes are numbered in the order
    of their sorted folder names.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        """Settings of a folder of images."""

        kind: str = "image_folder"
        path: str = ""
        """The folder; relative to the working folder of the process that reads it."""
        name: str = ""
        """Name in tasks and domains; empty = the folder's name."""
        size: int | None = None
        """Images are resized to size x size; None = all must have the size of the first."""
        grey: bool = False
        """One channel instead of three."""
        holdout: float = 0.2
        """Share of each class held out as test part where there is no test/ or val/ folder."""
        holdout_seed: int = 0
        """Seed of the hold-out: of the data set, so that every lane has the same test part."""

    config: ImageFolder.Config

    @property
    def label(self) -> str:
        return self.config.name or self._root.name

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        channels = 1 if self.config.grey else 3
        if self.config.size is not None:
            return channels, self.config.size, self.config.size
        first = _opened(self._files["train"][0][0])
        return channels, first.height, first.width

    @property
    def classes(self) -> int:
        return len(self.names)

    @cached_property
    def names(self) -> list[str]:
        return sorted({name for _, name in self._files["train"]})

    @property
    def own_validation(self) -> bool:  # type: ignore[override]
        return "validation" in self._files

    def labels(self, part: PartName) -> np.ndarray:
        number = {name: label for label, name in enumerate(self.names)}
        return np.array([number[name] for _, name in self._files[part]], dtype=np.int64)

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        store, there = self._decoded[part]
        for i in index[~there[index]]:
            store[i] = self._decode(self._files[part][i][0])
            there[i] = True
        images: np.ndarray = store[index]
        return images

    def read(self, path: Path) -> np.ndarray:
        """Pixels of one image, or of all images below a folder sorted by path."""
        if path.suffix == ".npy":
            return super().read(path)
        files = _images(path) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: has no images; give an image or a folder of some")
        return np.stack([self._decode(file) for file in files])

    def problems(self, path: str) -> list[Problem]:
        config, found = self.config, []
        if not config.path:
            found.append(Problem(f"{path}.path", "missing", "give the folder of images"))
        if config.size is not None and config.size < 1:
            found.append(Problem(f"{path}.size", f"got {config.size}", "must be at least 1"))
        if not 0 < config.holdout < 1:
            allowed = "must be between 0 and 1"
            found.append(Problem(f"{path}.holdout", f"got {config.holdout}", allowed))
        if found:
            return found
        try:
            _ = self.shape, self._files
        except InputError as error:
            what, _, remedy = str(error).rpartition("; ")
            return [Problem(f"{path}.path", what, remedy)]
        return []

    # ------------------------------------------------------------ the folder

    @property
    def _root(self) -> Path:
        return Path(self.config.path).expanduser().absolute()

    @cached_property
    def _files(self) -> dict[PartName, Listing]:
        root = self._root
        if not root.is_dir():
            raise InputError(f"{root}: is no folder; give the path of a folder of images")
        if not (root / "train").is_dir():
            return _held_out(_by_class(root), self.config.holdout, self.config.holdout_seed)
        parts = {"train": _by_class(root / "train"), **_evaluation(root)}
        classes = [{name for _, name in listing} for listing in parts.values()]
        for name in sorted(set().union(*classes)):
            if all(name in known for known in classes):
                continue
            raise InputError(
                f"{root}: class {name!r} is not in all of the parts {', '.join(parts)}; every "
                "class needs images in each"
            )
        return parts

    @cached_property
    def _decoded(self) -> dict[PartName, tuple[np.ndarray, np.ndarray]]:
        """Part -> (images, which of them were decoded); memory is touched on decoding only."""
        return {
            part: (np.empty((len(files), *self.shape), np.uint8), np.zeros(len(files), bool))
            for part, files in self._files.items()
        }

    def _decode(self, path: Path) -> np.ndarray:
        """Pixels of one image, uint8 [C, H, W]."""
        channels, height, width = self.shape
        pixels = _opened(path).convert("L" if channels == 1 else "RGB")
        if self.config.size is not None and pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        if pixels.size != (width, height):
            raise InputError(
                f"{path}: is {pixels.width}x{pixels.height}, the first image is {width}x{height}; "
                "set dataset.size to resize all images"
            )
        return np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)


def _opened(path: Path) -> Image.Image:
    """The image, fully read; InputError naming the file where it is damaged."""
    try:
        with path.open("rb") as file:
            image = Image.open(file)
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: is not a readable image ({error}); replace or delete the file"
        ) from error
    return image


def _images(folder: Path) -> list[Path]:
    """Images below a folder at any depth, sorted by path."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _class_folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _by_class(folder: Path) -> Listing:
    """Images of a folder that has one sub-folder per class."""
    listing: Listing = []
    for inside in _class_folders(folder):
        images = _images(inside)
        if not images:
            raise InputError(
                f"{inside}: class folder without images ({', '.join(sorted(SUFFIXES))}); "
                "add some or delete the folder"
            )
        listing += [(image, inside.name) for image in images]
    if not listing:
        raise InputError(f"{folder}: has no sub-folders; give one folder of images per class")
    return listing


def _evaluation(root: Path) -> dict[PartName, Listing]:
    """The parts beside ``train``; Tiny-ImageNet's test/ has no labels, so its val/ is the test."""
    if (root / "val" / ANNOTATIONS).is_file():
        return {"test": _annotated(root / "val")}
    found = [_by_class(root / name) for name in ("val", "test") if (root / name).is_dir()]
    if len(found) == 2:
        return {"validation": found[0], "test": found[1]}
    if found:
        return {"test": found[0]}
    raise InputError(f"{root}: has train/ but neither test/ nor val/; add one of them")


def _annotated(folder: Path) -> Listing:
    """Images named in Tiny-ImageNet's list: file, class and box separated by tabs."""
    listing: Listing = []
    lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        name, *rest = line.split("\t")
        image = folder / "images" / name
        if not rest or not image.is_file():
            raise InputError(
                f"{folder / ANNOTATIONS}: line {number} names {name!r}, which is not in "
                f"{folder / 'images'} or has no class; restore the original files"
            )
        listing.append((image, rest[0]))
    return sorted(listing, key=lambda item: (item[1], item[0]))


def _held_out(listing: Listing, share: float, seed: int) -> dict[PartName, Listing]:
    """Split a listing: ``share`` of each class, at least one image, becomes the test part."""
    rng = np.random.default_rng(seed)
    train: Listing = []
    test: Listing = []
    for name in dict.fromkeys(name for _, name in listing):
        images = [item for item in listing if item[1] == name]
        if len(images) < 2:
            raise InputError(
                f"{images[0][0].parent}: class with a single image; a hold-out needs at least two"
            )
        count = min(max(1, round(share * len(images))), len(images) - 1)
        held = set(rng.choice(len(images), count, replace=False).tolist())
        _extend(train, images, (i for i in range(len(images)) if i not in held))
        _extend(test, images, sorted(held))
    return {"train": train, "test": test}


def _extend(part: Listing, images: Listing, index: Iterable[int]) -> None:
    part.extend(images[i] for i in index)
