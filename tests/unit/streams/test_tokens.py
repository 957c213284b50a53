"""Resume tokens: ours, fresh, unchanged, and of this tenant, or not at all."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from opsin_server.errors import Failure, Reason
from opsin_server.streams.tokens import ResumeToken, TokenSigner

NOW = 1_800_000_000.0
TOKEN = ResumeToken("door", "acme", 4711, "nanodet@2", b"\0tracks\xff")


def refused(signer: TokenSigner, data: bytes, now: float = NOW, **names: str) -> str:
    with pytest.raises(Failure) as caught:
        signer.read(data, now, **names)
    assert caught.value.reason is Reason.RESUME_TOKEN_INVALID
    assert caught.value.field == "resume_token"
    return caught.value.message


NAME = st.text(max_size=64)


@given(st.builds(ResumeToken, NAME, NAME, st.integers(0, 2**64 - 1), NAME, st.binary(max_size=9000)))
def test_a_token_comes_back_as_it_was_on_any_server_with_the_secret(token: ResumeToken) -> None:
    data = TokenSigner(b"shared").sign(token, NOW)
    assert TokenSigner(b"shared").read(data, NOW + 599, tenant=token.tenant) == token


def test_a_token_is_small() -> None:
    assert len(TokenSigner().sign(TOKEN, NOW)) < 100


def test_a_server_without_a_secret_reads_only_its_own_tokens() -> None:
    data = TokenSigner().sign(TOKEN, NOW)
    assert "unknown" in refused(TokenSigner(), data, tenant="acme")


def test_a_token_is_good_for_ten_minutes() -> None:
    signer = TokenSigner()
    data = signer.sign(TOKEN, NOW)
    assert signer.read(data, NOW + 599.9, tenant="acme") == TOKEN
    assert "older than 600" in refused(signer, data, NOW + 600.1, tenant="acme")


def test_servers_clocks_may_differ_a_little() -> None:
    signer = TokenSigner()
    data = signer.sign(TOKEN, NOW)
    assert signer.read(data, NOW - 30, tenant="acme") == TOKEN
    refused(signer, data, NOW - 3600, tenant="acme")


@given(st.data())
def test_a_token_that_was_changed_anywhere_is_refused(data: st.DataObject) -> None:
    signer = TokenSigner(b"s")
    token = bytearray(signer.sign(TOKEN, NOW))
    token[data.draw(st.integers(0, len(token) - 1))] ^= data.draw(st.integers(1, 255))
    refused(signer, bytes(token), tenant="acme")


@given(st.binary(max_size=300))
def test_bytes_that_are_no_token_are_refused(data: bytes) -> None:
    refused(TokenSigner(b"s"), data)


def test_a_token_cut_short_is_refused() -> None:
    signer = TokenSigner()
    data = signer.sign(TOKEN, NOW)
    for length in range(len(data)):
        refused(signer, data[:length], tenant="acme")


def test_another_tenants_token_looks_like_an_unknown_one() -> None:
    signer = TokenSigner()
    assert refused(signer, signer.sign(TOKEN, NOW), tenant="other") == refused(signer, b"nonsense" * 9)


def test_a_token_fits_the_stream_it_was_given_to() -> None:
    signer = TokenSigner()
    data = signer.sign(TOKEN, NOW)
    assert signer.read(data, NOW, tenant="acme", stream_id="door") == TOKEN
    assert "another name" in refused(signer, data, tenant="acme", stream_id="yard")
