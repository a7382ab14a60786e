"""A program that has read prepared data ends well on a busy machine: no thread of Arrow's holds its files then."""

from __future__ import annotations

import pyarrow.parquet as pq

from mollify_core.datasets import prepare


def test_no_thread_of_arrows_reads_prepared_files(tmp_path, monkeypatch):
    """One that still holds a Python file when Python ends aborts the process: it happened in one of five runs."""
    opened, read = [], []
    for name in ("read", "read_row_group", "read_row_groups"):
        original = getattr(pq.ParquetFile, name)

        def reading(self, *args, original=original, **options):
            read.append(options["use_threads"])
            return original(self, *args, **options)

        monkeypatch.setattr(pq.ParquetFile, name, reading)
    start = pq.ParquetFile.__init__

    def opening(self, *args, **options):
        opened.append(options["pre_buffer"])
        start(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", opening)
    for feed in ("resident", "stream"):
        prepared = prepare("digits", cache_dir=tmp_path, feed=feed)
        prepared.labels("train")
        prepared.tensors("test")
        prepared.select("train", [3, 1])
    assert len(opened) > 6
    assert not any(opened)
    assert not any(read)
