"""A small Hugging Face hub on loopback: the few routes that its client asks for when fetching a model.

Serves folders of files as models with one commit each, and writes down which files were fetched.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "Hub", "hub"]

COMMIT = "c0ffee" * 6 + "c0ff"
"""The commit that “main” stands for, of every model."""


@dataclass
class Hub:
    """endpoint: for HF_ENDPOINT. fetched: names of the files that were sent, in order."""

    endpoint: str = ""
    fetched: list[str] = field(default_factory=list)


@contextmanager
def hub(models: Mapping[str, Path]) -> Iterator[Hub]:
    """Serve `models`, a folder for each id such as `tiny/detr`, until the block ends."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Routes, state, models))
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Routes(BaseHTTPRequestHandler):
    """One request."""

    def __init__(self, state: Hub, models: Mapping[str, Path], *rest: Any) -> None:
        self._state = state
        self._models = models
        super().__init__(*rest)

    def do_GET(self) -> None:
        """A file, or what there is to know of a model."""
        match unquote(urlsplit(self.path).path).strip("/").split("/"):
            case ["api", "models", owner, name, *rest] if f"{owner}/{name}" in self._models:
                self._model(f"{owner}/{name}", rest)
            case [owner, name, "resolve", revision, *path] if f"{owner}/{name}" in self._models:
                self._file(self._models[f"{owner}/{name}"], revision, "/".join(path))
            case _:
                self._refuse("RepoNotFound")

    def do_HEAD(self) -> None:
        """The same without the content."""
        self.do_GET()

    def _model(self, name: str, rest: list[str]) -> None:
        folder = self._models[name]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        match rest:
            case ["tree", *_]:
                self._json([{"type": "file", "path": str(f.relative_to(folder)), **_facts(f)} for f in files])
            case [] | ["revision", "main"] | ["revision", "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff"]:
                siblings = [{"rfilename": str(f.relative_to(folder)), **_facts(f)} for f in files]
                self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            case _:
                self._refuse("RevisionNotFound")

    def _file(self, folder: Path, revision: str, name: str) -> None:
        path = folder / name
        if revision not in ("main", COMMIT):
            self._refuse("RevisionNotFound")
        elif not path.is_file():
            self._refuse("EntryNotFound")
        else:
            self._send(path.read_bytes(), ETag=f'"{_facts(path)["oid"]}"')
            if self.command == "GET":
                self._state.fetched.append(name)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _facts(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
