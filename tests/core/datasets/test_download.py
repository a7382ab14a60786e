"""Downloads, against real HTTP servers that behave badly in all the usual ways."""

import hashlib
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mollify_core.datasets.download import download
from mollify_core.errors import ChecksumError, DataError, StorageError

CONTENT = np.random.default_rng(0).bytes(1_000_003)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """One file over HTTP; `replies` misbehave one after the other, and after them all is well.

    A reply is an int (an HTTP status), ("cut", n) (the connection ends after n bytes of the body), ("later", n) (too
    many requests, come back in n seconds), "shifted" (a range is answered with another one) or "silent" (no answer for
    a second).
    """

    content: bytes = CONTENT
    ranges: bool = True
    length: bool = True
    replies: list = field(default_factory=list)
    seen: list[str | None] = field(default_factory=list)  # the Range header of each request
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"]
        self.seen.append(asked)
        reply = self.replies.pop(0) if self.replies else None
        if isinstance(reply, int):
            handler.send_error(reply)
            return
        if isinstance(reply, tuple) and reply[0] == "later":
            handler.send_response(429)
            handler.send_header("Retry-After", str(reply[1]))
            handler.end_headers()
            return
        if reply == "silent":
            threading.Event().wait(1)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start and start >= len(self.content):
            handler.send_error(416)
            return
        start = max(0, start - 7) if reply == "shifted" else start
        body = self.content[start:]
        handler.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: reply[1]] if isinstance(reply, tuple) else body)


@contextmanager
def serve(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_port}/file.bin"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


def part(target: Path) -> Path:
    return target.with_name("file.bin.part")


def fetch(target: Path, *servers: Server, **options) -> None:
    download([s.url for s in servers], MD5, target, **{"backoff": 0.001, "timeout": 5, **options})


def test_whole_file_with_progress(target: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    with serve(Server()) as server:
        fetch(target, server, progress=lambda done, total: steps.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert not part(target).exists()
    assert server.seen == [None]
    assert steps == sorted(steps)
    assert steps[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_resumed_where_it_broke(target: Path) -> None:
    steps: list[int] = []
    with serve(Server(replies=[("cut", 300_000), ("cut", 200_000)])) as server:
        fetch(target, server, progress=lambda done, _: steps.append(done))
    assert target.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-", "bytes=500000-"]
    assert steps == sorted(steps)


def test_a_later_call_resumes_what_an_earlier_one_left(target: Path) -> None:
    with serve(Server(replies=[("cut", 400_000)])) as server:
        with pytest.raises(DataError, match="400000 of 1000003 bytes"):
            fetch(target, server, attempts=1)
        assert not target.exists()
        assert part(target).read_bytes() == CONTENT[:400_000]
        fetch(target, server)
    assert target.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=400000-"]


def test_another_address_continues_what_the_first_began(target: Path) -> None:
    with serve(Server(replies=[("cut", 400_000), 404])) as first, serve(Server()) as second:
        fetch(target, first, second)
    assert target.read_bytes() == CONTENT
    assert second.seen == ["bytes=400000-"]


def test_a_server_without_ranges_starts_over(target: Path) -> None:
    with serve(Server(ranges=False, replies=[("cut", 300_000)])) as server:
        fetch(target, server)
    assert target.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-"]


def test_a_server_without_ranges_that_always_cuts_is_given_up(target: Path) -> None:
    with serve(Server(ranges=False, replies=[("cut", 300_000)] * 20)) as server:
        with pytest.raises(DataError):
            fetch(target, server, attempts=3)
    assert len(server.seen) == 3


def test_a_shifted_range_is_not_appended(target: Path) -> None:
    with serve(Server(replies=[("cut", 300_000), "shifted"])) as server:
        fetch(target, server)
    assert target.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-", None]


def test_no_content_length(target: Path) -> None:
    with serve(Server(length=False)) as server:
        fetch(target, server)
    assert target.read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(target: Path) -> None:
    part(target).write_bytes(b"x" * 1000)
    with serve(Server()) as server:
        fetch(target, server)
    assert target.read_bytes() == CONTENT
    assert server.seen == ["bytes=1000-", None]


def test_a_part_longer_than_the_file_is_thrown_away(target: Path) -> None:
    part(target).write_bytes(CONTENT + b"x")
    with serve(Server()) as server:
        fetch(target, server)
    assert target.read_bytes() == CONTENT
    assert server.seen == ["bytes=1000004-", None]


def test_a_complete_part_needs_no_network(target: Path) -> None:
    part(target).write_bytes(CONTENT)
    with serve(Server()) as server:
        fetch(target, server)
        fetch(target, server)
    assert target.read_bytes() == CONTENT
    assert server.seen == []


def test_wrong_content_on_the_first_mirror(target: Path) -> None:
    with serve(Server(content=b"a login page")) as wrong, serve(Server(replies=[404])) as gone, serve(Server()) as good:
        fetch(target, wrong, gone, good)
    assert target.read_bytes() == CONTENT
    assert [wrong.seen, gone.seen, good.seen] == [[None], [None], [None]]


def test_all_bad_is_one_checksum_error(target: Path) -> None:
    with serve(Server(content=b"a login page")) as wrong, serve(Server(replies=[404])) as gone:
        with pytest.raises(ChecksumError) as caught:
            fetch(target, wrong, gone)
    text = str(caught.value)
    assert MD5 in text
    assert hashlib.md5(b"a login page").hexdigest() in text
    assert wrong.url in text
    assert f"{gone.url} (HTTP 404)" in text
    assert "\n" not in text
    assert not target.exists()
    assert not part(target).exists()


def test_a_busy_server_is_asked_again(target: Path) -> None:
    with serve(Server(replies=[503, 429])) as server:
        fetch(target, server)
    assert target.read_bytes() == CONTENT


def test_a_busy_server_is_given_the_time_it_asks_for(target: Path) -> None:
    with serve(Server(replies=[("later", 1)])) as server:
        started = time.monotonic()
        fetch(target, server)
    assert time.monotonic() - started >= 1
    assert target.read_bytes() == CONTENT


def test_a_silent_server_times_out(target: Path) -> None:
    with serve(Server(replies=["silent"])) as server:
        with pytest.raises(DataError, match="timed out"):
            fetch(target, server, attempts=1, timeout=0.1)
        fetch(target, server)
    assert target.read_bytes() == CONTENT


def test_no_network_lists_what_was_tried(target: Path) -> None:
    with serve(Server()) as closed, serve(Server()) as also_closed:
        pass
    with pytest.raises(DataError) as caught:
        fetch(target, closed, also_closed, attempts=2)
    text = str(caught.value)
    assert not isinstance(caught.value, ChecksumError)
    assert f"{closed.url} (Connection refused)" in text
    assert f"{also_closed.url} (Connection refused)" in text
    assert "--data-dir" in text
    assert "\n" not in text


def test_a_full_disk_is_not_the_networks_fault(target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serve(Server()) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_001, hard))
        try:
            with pytest.raises(StorageError, match=r"file\.bin\.part"):
                fetch(target, server)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert server.seen == [None]
        fetch(target, server)
    assert target.read_bytes() == CONTENT


def test_a_folder_that_is_not_there_is_not_the_networks_fault(target: Path) -> None:
    with serve(Server()) as server:
        with pytest.raises(StorageError, match=r"Cannot write '.*gone/file\.bin\.part': No such file or directory"):
            fetch(target.parent / "gone" / target.name, server)
    assert server.seen == [None]
