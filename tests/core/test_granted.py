"""What a control group allows is what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mollify_core import granted

MACHINE = granted.installed()


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("", {}, MACHINE),
        ("0::/\n", {"memory.max": "2147483648\n"}, 2**31),
        ("0::/a/b\n", {"a/memory.max": "4294967296", "a/b/memory.max": "max"}, 2**32),
        ("0::/a/b\n", {"a/memory.max": "4294967296", "a/b/memory.max": "1073741824"}, 2**30),
        ("0::/../x\n", {"memory.max": "max"}, MACHINE),
        ("0::/a\n", {"a/memory.max": str(2**60)}, MACHINE),
        (
            "4:cpu,memory:/slurm/job_7\n1:cpuset:/\n",
            {"memory/slurm/job_7/memory.limit_in_bytes": "2000000000"},
            2 * 10**9,
        ),
        ("4:memory:/docker/x\n", {"memory/memory.limit_in_bytes": "2000000000"}, 2 * 10**9),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
    ],
)
def test_memory(group: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert granted.memory(tmp_path) == expected


def test_no_linux(tmp_path: Path) -> None:
    assert granted.memory(tmp_path) == MACHINE
