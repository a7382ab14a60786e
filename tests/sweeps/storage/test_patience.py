"""Patience with a storage: every operation waits, what is wrong is named, and only a long refusal has an end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mollify_core.errors import StorageError
from mollify_sweeps.storage import patience
from mollify_sweeps.storage.patience import Patience, trouble
from mollify_sweeps.storage.store import Store
from servers import bucket, moto


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSES", (0.02,))
    monkeypatch.setattr(patience, "LOOK", 0.01)


@pytest.fixture
def s3() -> Iterator[None]:
    with moto():
        yield


SAID = {  # what Arrow says of S3 and of Google's store
    "credentials": [
        "When uploading part for key 'x' in bucket 'b': AWS Error UNKNOWN (HTTP status 400) during PutObject "
        "operation: The provided token has expired.",
        "When reading information for key 'x' in bucket 'b': AWS Error UNKNOWN (HTTP status 400) during HeadObject "
        "operation: No response body.",
        "AWS Error INVALID_ACCESS_KEY_ID during PutObject operation: The key you provided does not exist",
        "AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject operation: no",
        "AWS Error REQUEST_TIME_TOO_SKEWED during PutObject operation: no",
        "google::cloud::Status(UNAUTHENTICATED: Permanent error InsertObjectMedia)",
    ],
    "refused": [
        "AWS Error ACCESS_DENIED during HeadObject operation: No response body.",
        "AWS Error UNKNOWN (HTTP status 403) during HeadObject operation: No response body.",
        "google::cloud::Status(PERMISSION_DENIED: Permanent error in GetObjectMetadata: 403 Forbidden)",
    ],
    "full": ["AWS Error UNKNOWN (HTTP status 507) during PutObject operation: no room"],
    "down": [
        "AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server",
        "AWS Error UNKNOWN (HTTP status 500) during HeadObject operation: x",
        "AWS Error UNKNOWN (HTTP status 404) during HeadObject operation: x",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SAID.items() for text in texts])
def test_trouble_is_named(kind, text):
    assert trouble(OSError(text)) == kind


class Failing:
    """An operation that fails with one text after the other."""

    def __init__(self, *texts: str) -> None:
        self.left = [*texts]

    def __call__(self) -> str:
        if self.left:
            raise OSError(self.left.pop(0))
        return "done"


def test_each_trouble_is_told_by_its_name_and_again_while_it_lasts(monkeypatch):
    monkeypatch.setattr(patience, "AGAIN", 0.2)
    said: list[str | None] = []
    renewed: list[int] = []
    expired, denied = SAID["credentials"][0], SAID["refused"][0]
    once = Patience("s3://bucket/x", said.append, lambda: renewed.append(1))
    assert once(Failing(*[expired] * 20, *[denied] * 3)) == "done"
    assert once(Failing("blip")) == "done"  # one short failure is no news
    texts = [text or "well" for text in said]
    assert texts[-1] == "well"
    assert 2 <= sum("does not accept the credentials" in text for text in texts) <= 6
    assert sum("refuses access" in text for text in texts) == 1
    assert all("training goes on" in text for text in texts[:-1])
    assert "The provided token" not in texts[0]  # the operation is enough
    assert len(renewed) == 23


def test_a_refusal_has_an_end_and_expired_credentials_have_none(monkeypatch):
    monkeypatch.setattr(patience, "_REFUSALS", 0.3)
    denied, expired = SAID["refused"][0], SAID["credentials"][0]
    assert Patience("u")(Failing(*[denied] * 4)) == "done"
    assert Patience("u")(Failing(*[expired] * 40)) == "done"
    with pytest.raises(StorageError, match=r"^Cannot use storage 'u': AWS Error ACCESS_DENIED"):
        Patience("u")(Failing(*[denied] * 10**4))


class _Expiring(BaseHTTPRequestHandler):
    """A store with one object, that knows the key "new" and calls the token of every other expired."""

    def do_HEAD(self) -> None:
        good = "Credential=new/" in self.headers["Authorization"]
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", "1" if good else "0")
        self.end_headers()
        if good and self.command == "GET":
            self.wfile.write(b"1")

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_renewed_credentials_are_picked_up(tmp_path, monkeypatch):
    """Those of a profile, into whose file another program writes, as `aws sso login` does."""
    file = tmp_path / "credentials"
    for name, value in {"SHARED_CREDENTIALS_FILE": str(file), "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    profile = "[default]\naws_access_key_id = {0}\naws_secret_access_key = {0}\n"
    file.write_text(profile.format("old"))
    said: list[str | None] = []

    def tell(text: str | None) -> None:
        said.append(text)
        if text is not None:
            file.write_text(profile.format("new"))

    with ThreadingHTTPServer(("127.0.0.1", 0), _Expiring) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        store = Store("s3://bucket/sweeps?region=us-east-1")
        assert store.patience(tell)(lambda: store.read("x")) == b"1"
        server.shutdown()
    assert len(said) == 2
    assert said[0] is not None
    assert "does not accept the credentials" in said[0]
    assert "AWS Error UNKNOWN (HTTP status 400) during HeadObject operation" in said[0]


@pytest.mark.slow
def test_a_store_that_cannot_be_opened_waits(s3, monkeypatch):  # in this order: what is taken away comes back first
    """Without its region in the URI, and without an endpoint, the region of a bucket is looked up: nobody answers."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    name = "mollify-no-such-bucket-81c2"
    bucket().meta.client.create_bucket(Bucket=name)
    for variable in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(variable)
    store = Store(f"s3://{name}/x", opened=False) / "trials"
    store.renew()  # it has nothing to renew yet
    said: list[str | None] = []
    threading.Timer(1.0, os.environ.__setitem__, ("AWS_ENDPOINT_URL", endpoint)).start()
    store.patience(said.append)(store.open)
    assert said[-1] is None
    assert "does not answer" in (said[0] or "")
    store.write("x", b"1")
    assert (store / "y").root == f"{name}/x/trials/y"
