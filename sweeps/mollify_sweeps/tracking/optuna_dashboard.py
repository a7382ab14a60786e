"""Optuna's dashboard of a running sweep, in a process of its own; and the addresses of the dashboards.

The server ends with the sweep, however that ends: it reads from a pipe whose other end closes with the sweep's process.
What it must know comes through this pipe too, so a password is on no command line and in no environment. It listens on
loopback, only shows, and lets nobody in without the token in its address: other people use this machine as well.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from mollify_core.errors import ConfigError
from mollify_sweeps.cluster.connection import LOOPBACK
from mollify_sweeps.cluster.environment import python_path

if TYPE_CHECKING:
    from rich.console import Console

    from mollify_sweeps.study.database import Location


App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class OptunaDashboard:
    """The dashboard of one study; reachable as soon as it is made, and answering as soon as it is served.

    Args:
        port: of loopback; 0 takes a free one.

    Attributes:
        address: what to open in a browser.

    Raises:
        ConfigError: the port cannot be had.
    """

    def __init__(self, port: int = 0) -> None:
        self._token = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[str] | None = None
        try:
            self._socket = socket.create_server((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a port"
            raise ConfigError(f"Cannot serve the dashboard on port {port}: {reason}") from None
        self.address = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}/?token={self._token}"

    def serve(self, location: Location, study: str) -> None:
        """Starts to serve.

        Args:
            location: of the study.
            study: name of the study, which exists; its page is shown first.
        """
        number = self._socket.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, "PYTHONPATH": python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=(number,),
            start_new_session=True,  # Ctrl-C is for the sweep
        )
        self._socket.close()  # it is the server's now
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            said = {"socket": number, "url": location.url, "study": study, "token": self._token}
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends the server."""
        self._socket.close()
        if self._process is not None:
            self._process.kill()  # it holds nothing
            self._process.wait()


def show_addresses(console: Console, dashboard: OptunaDashboard) -> None:
    """Prints where Optuna's dashboard is, and that of the Ray that this process is connected to."""
    import ray
    from ray._private.worker import get_dashboard_url

    lines = [f"Optuna's dashboard: {dashboard.address}"]
    if not ray.util.client.ray.is_connected() and (found := get_dashboard_url()):
        token = " (asks for what `ray get-auth-token` prints)" if os.environ.get("RAY_AUTH_MODE") == "token" else ""
        lines.append(f"Ray's dashboard: http://{found}{token}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def guarded(app: App, token: str, cookie: str, home: str) -> App:
    """A WSGI application that shows `app` to those who have brought the token once, and changes nothing.

    Args:
        app: what is shown.
        token: the secret, asked for as ``?token=``.
        cookie: name of the cookie that remembers it; a browser sends one to every port of a host.
        home: path that a visitor with the token is sent to.
    """

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def answer(status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
            start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
            return [text.encode()]

        asked = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        if _same(asked, token):
            kept = f"{cookie}={token}; Path=/; HttpOnly; SameSite=Lax"
            return answer("302 Found", "", ("Location", home), ("Set-Cookie", kept))
        cookies: SimpleCookie = SimpleCookie()
        with contextlib.suppress(CookieError):
            cookies.load(environ.get("HTTP_COOKIE", ""))
        if cookie not in cookies or not _same(cookies[cookie].value, token):
            return answer("403 Forbidden", "Open the address that the sweep has printed, with its token.\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return answer("405 Method Not Allowed", "This dashboard only shows.\n", ("Allow", "GET, HEAD"))
        return app(environ, start_response)

    return guard


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _serve() -> None:
    """The server's process: serves until its standard input ends."""
    said = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    from optuna_dashboard import wsgi  # type: ignore[import-untyped]

    from mollify_sweeps.study.database import Location, quiet_optuna

    quiet_optuna()
    storage = Location(said["url"]).open()
    home = f"/dashboard/studies/{storage.get_study_id_from_name(said['study'])}"
    listening = socket.socket(fileno=said["socket"])
    port = listening.getsockname()[1]
    server = _Server((LOOPBACK, port), _Silent, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_name, server.server_port = LOOPBACK, port
    server.setup_environ()
    server.set_app(guarded(wsgi(storage), said["token"], f"mollify-{port}", home))
    server.serve_forever()


if __name__ == "__main__":
    _serve()
