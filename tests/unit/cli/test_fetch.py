"""Pictures at http addresses come as bytes, within a size and a time, or fail in a sentence."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from opsin.cli.fetch import FetchError, fetch


class Pages(BaseHTTPRequestHandler):
    """`/picture` is 1000 bytes, `/moved` leads there, `/slow` never ends, anything else is not there."""

    gate = threading.Event()

    def do_GET(self) -> None:
        match self.path:
            case "/picture":
                self.answer(200, b"x" * 1000)
            case "/moved":
                self.answer(302, b"", Location="/picture")
            case "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.gate.wait(60)
            case _:
                self.answer(404, b"no")

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Pages.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("path", ["/picture", "/moved"])
def test_the_bytes_of_a_page_come_redirects_followed(site: str, path: str) -> None:
    assert fetch(site + path) == b"x" * 1000


def test_a_picture_of_the_most_bytes_is_taken_and_one_byte_more_is_not(site: str) -> None:
    assert len(fetch(f"{site}/picture", most=1000)) == 1000
    with pytest.raises(FetchError, match="has more than"):
        fetch(f"{site}/picture", most=999)


@pytest.mark.parametrize(
    ("path", "seconds", "why"),
    [("/gone", 30, "answers 404"), ("/slow", 0.2, "within 0.2 s")],
    ids=["missing", "slow"],
)
def test_what_cannot_be_had_is_told_with_its_reason(site: str, path: str, seconds: float, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        fetch(site + path, timeout=seconds)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://nosuch.invalid/x", "http://[::1/x", "http:///x"]
)
def test_an_address_without_a_server_is_an_error_of_ours(url: str) -> None:
    with pytest.raises(FetchError):
        fetch(url, timeout=2)
