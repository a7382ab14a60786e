"""What a prepared data set is, in words for a plan: its classes, where each split comes from, and what was left out."""

from __future__ import annotations

import numpy as np

from mollify_core.datasets.listing import Listed
from mollify_core.datasets.load import SPLITS, Prepared
from mollify_core.datasets.specs import ImageFolder
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION
from mollify_core.foreign import clean

_FIRST = 5  # classes that are named
UNEQUAL = 1.5  # times as many images in one class as in another are worth a word
_LEAK = 0.01  # share of a split that is worth a word


def leaks(prepared: Prepared, fit: np.ndarray, validation: np.ndarray) -> str:
    """A sentence where many images that measure are nearly the same as fitted ones; else empty. Safe to print.

    Args:
        prepared: the data set.
        fit, validation: rows of the training images, see `training_data.split_rows`.
    """
    of_train = prepared.manifest["counts"][TRAIN]
    role = np.full(of_train + prepared.manifest["counts"][TEST], "")
    role[fit], role[validation], role[of_train:] = "f", "v", "t"
    known = [(pair, {role[row] for row in pair}) for pair in prepared.twins]
    found = {
        split: [sorted(pair, key=lambda row: role[row] != "f") for pair, roles in known if roles == {"f", letter}]
        for split, letter in ((VALIDATION, "v"), (TEST, "t"))
    }
    numbers = {split: len({measured for _, measured in pairs}) for split, pairs in found.items()}
    among = {VALIDATION: len(validation), TEST: len(role) - of_train}
    many = [split for split, number in numbers.items() if number > _LEAK * among[split]]
    if not many:
        return ""
    counts = [f"{numbers[split]:,} {split}" for split in many]
    fitted, measured = found[many[0]][0]
    return (
        f"{' and '.join(counts)} images are nearly the same as fitted ones, as {_name(prepared, measured)} and "
        f"{_name(prepared, fitted)}: what is measured on them is too good"
    )


def sides(prepared: Prepared, fit: np.ndarray, validation: np.ndarray, judging: np.ndarray) -> str:
    """How many groups of images are on which side.

    Args:
        prepared: of images in groups.
        fit, validation: rows of the training images, see `training_data.split_rows`.
        judging: which of the validation rows only judge, see `training_data.judging_of`.
    """
    groups = prepared.groups[TRAIN]
    choosing = np.delete(validation, judging)
    parts = {"fit": groups[fit], "choose": groups[choosing], "judge": groups[validation[judging]]}
    parts["test"] = prepared.groups[TEST]
    said = [f"{len(np.unique(part)):,} {word}" for word, part in parts.items() if len(part)]
    sizes = np.unique(np.concatenate([groups, prepared.groups[TEST]]), return_counts=True)[1]
    of = f"{len(sizes):,} of {sizes.min():,} to {sizes.max():,} images"
    return f"{of}: {', '.join(said)}; in intervals a group counts as one image"


def divided(prepared: Prepared) -> str:
    """A sentence where folders of splits divide groups of images; else empty."""
    if not prepared.groups:
        return ""
    train, held_out = np.split(prepared.groups[TRAIN], [len(prepared.groups[TRAIN]) - prepared.validation])
    both = [
        f"{number:,} in train and {split}"
        for split, other in ((VALIDATION, held_out), (TEST, prepared.groups[TEST]))
        if (number := len(np.intersect1d(train, other)))
    ]
    return f"the data's own splits divide groups of images, {' and '.join(both)}: answers are too good" if both else ""


def _name(prepared: Prepared, row: int) -> str:
    source, of_train = prepared.spec.source, prepared.manifest["counts"][TRAIN]
    if isinstance(source, ImageFolder) and isinstance(source.listed, Listed):
        rows = source.listed.rows
        return clean([*rows[TRAIN], *rows.get(VALIDATION, []), *rows[TEST]][row][0], 60, keep="")
    return f"{TRAIN} {row}" if row < of_train else f"{TEST} {row - of_train}"


def described(prepared: Prepared) -> dict[str, str]:
    """Lines by their names, of text that is safe to print: "classes", "unequal" ones, "splits", and of a data set
    of one's own what it is "read as", what is "left out" by reason, its "groups" and the "background", as far as there
    is something to say.
    """
    names, counts = prepared.manifest["class_names"], prepared.manifest["counts"]
    first = ", ".join(clean(name, 24, keep="") for name in names[:_FIRST])
    lines = {"classes": f"{len(names)}: {first}{', …' if len(names) > _FIRST else ''}"}
    of_class = np.bincount(prepared.labels(TRAIN), minlength=len(names))
    most, least = of_class.argmax(), of_class.argmin()
    if of_class[most] > UNEQUAL * of_class[least]:
        told = [f"{of_class[i]:,} of {clean(names[i], 24, keep='')}" for i in (most, least)]
        lines["unequal"] = f"from {told[0]} to {told[1]}; the balanced error weighs all classes alike"
    source = prepared.spec.source
    numbers = {TRAIN: counts[TRAIN] - prepared.validation, VALIDATION: prepared.validation, TEST: counts[TEST]}
    if not isinstance(source, ImageFolder) or not isinstance(source.listed, Listed):
        said = ", ".join(f"{number:,} {split}" for split, number in numbers.items() if number)
        return lines | {"splits": f"{said}; validation is held out of train"}
    listed = source.listed
    parts = []
    for split, number in numbers.items():
        folder = listed.folders.get(split)
        if number:
            parts.append(f"{number:,} {split}" + ("" if folder is None else f" from {clean(folder, 40, keep='')}/"))
    said = ", ".join(parts)
    if listed.divided:
        nothing = "there is no such split" if listed.form else "no folders are splits"
        said += f"; a fifth of each class is for testing, since {nothing}"
    if not prepared.validation:
        said += "; validation is held out of train"
    lines["splits"] = said
    if listed.form:
        lines["read as"] = clean(listed.form, 100, keep="")
    if listed.left_out:
        lines["left out"] = ", ".join(f"{number:,} {reason}" for reason, number in sorted(listed.left_out.items()))
    if prepared.groups:
        numbers_of = [len(np.unique(prepared.groups[split])) for split in SPLITS]
        lines["groups"] = f"{numbers_of[0]:,} of training and {numbers_of[1]:,} of test images"
    if source.background != "white":
        lines["background"] = f"{source.background} where images are transparent"
    return lines
