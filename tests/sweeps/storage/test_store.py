"""Addresses of stores: joined and taken apart in one place, whatever stands in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mollify_core.errors import StorageError
from mollify_sweeps.storage.store import Store

QUERY = "?endpoint_override=127.0.0.1:5555&scheme=http"


@pytest.mark.parametrize("options", ["", QUERY, "?region=eu-west-1"])
def test_options_of_an_address_stay_behind_the_path(options: str) -> None:
    sweep = Store(f"s3://bucket/sweeps{options}", opened=False) / "night"
    assert sweep.uri == f"s3://bucket/sweeps/night{options}"
    assert (sweep / "trials/00001").uri == f"s3://bucket/sweeps/night/trials/00001{options}"
    assert sweep.beside("-confirm").uri == f"s3://bucket/sweeps/night-confirm{options}"
    assert (sweep.name, sweep.parent) == ("night", f"s3://bucket/sweeps{options}")


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41", "a b", "a&b=c", ":memory:"])
def test_in_a_folder_they_are_letters(name: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / name)) / "night"
    store.write("x", b"1")
    assert (tmp_path / name / "night/x").read_bytes() == b"1"
    assert (store.name, store.parent) == ("night", str(tmp_path / name))
    assert Store(store.parent).uri == str(tmp_path / name)


def test_a_folder_that_can_never_be_there(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (
        tmp_path / "loop",
        tmp_path / ("x" * 300),
        f"{tmp_path}/a\0b",
        b"/tmp/\xff".decode(errors="surrogateescape"),
    ):
        with pytest.raises(StorageError):
            Store(str(path))


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"Cannot use storage '.*/file/sweep': a part of its path is a file"):
        (Store(str(tmp_path / "file")) / "sweep").read("sweep.json")
