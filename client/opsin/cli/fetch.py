"""Pictures from http(s) addresses, fetched here and sent as bytes. Knows neither the server nor pictures."""

import http.client
import time
import urllib.error
import urllib.request

__all__ = ["FetchError", "fetch"]

MOST_BYTES = 32 * 1024 * 1024
"""As large as a message may be; a picture above it could not be sent."""
TIMEOUT = 30.0
_CHUNK = 64 * 1024


class FetchError(Exception):
    """There is nothing to be had at this address; the message says why."""


def fetch(url: str, most: int = MOST_BYTES, timeout: float = TIMEOUT) -> bytes:
    """What an http(s) address gives, redirects followed. Raises FetchError.

    most: bytes. timeout: seconds in all, and without a byte.
    """
    until = time.monotonic() + timeout
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "opsin"})  # noqa: S310  the caller saw http
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            while chunk := answer.read1(_CHUNK):
                data += chunk
                if len(data) > most:
                    raise FetchError(f"has more than {most >> 20} MiB")
                if time.monotonic() > until:
                    raise TimeoutError
    except urllib.error.HTTPError as error:
        raise FetchError(f"answers {error.code} {error.reason}") from None
    except TimeoutError:
        raise FetchError(f"did not come within {timeout:g} s") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise FetchError(f"cannot be fetched: {getattr(why, 'strerror', None) or why}") from None
    return bytes(data)
