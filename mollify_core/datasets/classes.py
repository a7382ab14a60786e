"""A folder with one folder of images per class, in folders of splits or undivided.

Splits are known by the usual names in any case, as `tree.role` knows them. Of train, validation and test, validation is
what validates; beside train alone, it is the test split, and validation is held out of train as in every data set.
"""

from __future__ import annotations

from pathlib import Path

from mollify_core.datasets.files import quoted
from mollify_core.datasets.listing import Listed, Rows
from mollify_core.datasets.tree import TEST, TRAIN, VALIDATION, OwnFiles, Tree, role
from mollify_core.errors import DataError
from mollify_core.foreign import clean


def listed(path: Path) -> Listed:
    """Lists a folder; nothing is decoded.

    Raises:
        DataError: its folders are no classes, or no splits of the same classes, or its links have loops.
    """
    tree = Tree(path)
    folders = _splits(tree)
    if folders:
        names, rows = _divided(tree, folders)
    else:
        names, found = _classes(tree, "", "the folder")
        rows = {TRAIN: found}
    tree.loose()
    files = OwnFiles(path, [name for part in rows.values() for name, _ in part])
    return Listed(files, names, rows, folders, dict(tree.left_out))


def _splits(tree: Tree) -> dict[str, str]:
    """Split -> the folder that is it; nothing where the folder is undivided.

    Raises:
        DataError: the names of its folders say splits, and are none that go together.
    """
    where, top = quoted(tree.path), tree.folders()
    classes = {name: tree.folders(name) for name in top}
    named: dict[str, list[str]] = {}
    for name in top:
        if (split := role(name)) is not None and classes[name]:  # a class may be one of railway trains
            named.setdefault(split, []).append(name)
    if TRAIN in named:
        for several in named.values():
            if len(several) > 1:
                two = f"{quoted(several[0])} and {quoted(several[1])}"
                raise DataError(f"Expected one folder of each split in {where}, but got {two}")
        found = {split: folders[0] for split, folders in named.items()}
        if TEST not in found and VALIDATION in found:
            found[TEST] = found.pop(VALIDATION)
        if TEST not in found:
            raise DataError(
                f"Expected a folder test or val beside {_word(found[TRAIN])} in {where}, with a folder of images per "
                "class, but there is none"
            )
        return found
    inner = {name for name in top if len({role(inside) for inside in classes[name]} - {None}) > 1}
    said = {role(name) for name in top} - {None}
    overlap = any(set(classes[name]) & set(top) for folders in named.values() for name in folders)
    if top and (len(said) > 1 or all(map(role, top)) or overlap):
        raise DataError(
            f"Expected folders of classes in {where}, or splits that hold them, one of which is train, but got "
            f"{', '.join(quoted(name) for name in top[:4])}{' …' if len(top) > 4 else ''}"
        )
    if inner:
        raise DataError(
            f"Expected folders of splits above those of classes in {where}, but {quoted(min(inner))} holds "
            f"{', '.join(quoted(name) for name in classes[min(inner)][:3])}"
        )
    return {}


def _word(folder: str) -> str:
    return clean(folder, 40, keep="")


def _divided(tree: Tree, folders: dict[str, str]) -> tuple[list[str], dict[str, Rows]]:
    names: list[str] = []
    rows: dict[str, Rows] = {}
    for split in (TRAIN, VALIDATION, TEST):
        if split in folders:
            found, rows[split] = _classes(tree, folders[split], split)
            names = names or found
            different = sorted(set(names) ^ set(found))
            if different:
                only = folders[TRAIN] if different[0] in names else folders[split]
                raise DataError(
                    f"Expected {_word(folders[TRAIN])} and {_word(folders[split])} in {quoted(tree.path)} to hold the "
                    f"same classes, but {quoted(different[0])} is in {_word(only)} only"
                )
            tree.loose(folders[split])
    tree.beside([name for name in tree.folders() if name not in folders.values()])
    return names, rows


def _classes(tree: Tree, top: str, split: str) -> tuple[list[str], Rows]:
    """Class names, and the images below the folder `top`, class by class, with their labels."""
    where = quoted(tree.path / top)
    names = tree.folders(top)
    if len(names) < 2:
        raise DataError(f"Expected {where} to hold two or more folders, one for each class, but got {len(names)}")
    rows: Rows = []
    for label, name in enumerate(names):
        found = tree.images(f"{top}/{name}" if top else name, f"{split}: {name}")
        if not found:
            raise DataError(f"Expected images in every class folder, but {quoted(name)} in {where} has none")
        rows += [(file, label) for file in found]
    return names, rows
