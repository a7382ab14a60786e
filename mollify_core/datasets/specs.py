"""What each data set is: shapes, scaling constants, and the checksums of its official files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mollify_core.errors import ConfigError, nearest


@dataclass(frozen=True)
class Archive:
    """The official .tar.gz of Python pickles.

    Attributes:
        url: official address.
        md5: of the archive.
        folder: the folder in the archive that holds the files.
        train, test: names of the files with images and labels, in official order.
        meta: name of the file with the class names.
        labels_key: key of the labels in a file with images.
        names_key: key of the class names in `meta`.
    """

    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    names_key: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of equally large images with one class each.

    Attributes:
        name: what it is called on the command line and in recipes.
        classes: number of classes.
        image_shape: (channels, height, width).
        mean, std: per channel, of training images scaled to [0, 1]; what "normal" scaling subtracts and divides by.
        augment: the augmentations that suit it.
        validation_fraction: the share of the training images to hold out by default, in (0, 0.5].
        checksums: md5 of each official file, by name.
        archive: where the files come from; None for digits, which scikit-learn brings along.
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str, ...]
    validation_fraction: float
    checksums: Mapping[str, str] = field(hash=False)
    archive: Archive | None = None


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
            archive=Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                md5="c58f30108f718f92721af3b95e74349a",
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
            archive=Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                folder="cifar-100-python",
                train=("train",),
                test=("test",),
                meta="meta",
                labels_key="fine_labels",
                names_key="fine_label_names",
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


def spec(name: str) -> DatasetSpec:
    """The data set called `name`.

    Raises:
        ConfigError: there is none; the nearest known one is named.
    """
    if name not in DATASETS:
        raise ConfigError(f"Unknown data set {name!r}{nearest(name, DATASETS)}")
    return DATASETS[name]
