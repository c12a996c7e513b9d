"""The token and the cookie that stands for it in a browser."""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from starlette.responses import RedirectResponse, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.datastructures import Headers

    from streamer.web.options import WebOptions

__all__ = ["Login"]

COOKIE: Final = "streamer_session"


class Login:
    """Knows who has the token.

    The cookie is made from the token by a keyed hash: it changes with the token, needs no table
    of sessions, and does not give the token away to whoever reads the browser's storage.

    Args:
        options: the token, and whether the server speaks TLS.
    """

    def __init__(self, options: WebOptions) -> None:
        self._token = options.token
        key = blake2b(options.token.encode()).digest()
        self._session = blake2b(b"session", key=key, digest_size=32).hexdigest()
        self._secure = options.tls_cert is not None

    @property
    def needed(self) -> bool:
        """Whether a token is configured at all."""
        return bool(self._token)

    def accepts(self, token: str) -> bool:
        """Tell whether this is the token."""
        return self.needed and _same(token, self._token)

    def knows(self, headers: Headers) -> bool:
        """Tell whether a request carries the token, or the cookie that stands for it."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.accepts(given.strip())
        return any(_same(value, self._session) for value in _cookies(headers))

    def answer(self) -> Response:
        """Send the browser to the page, with the cookie and without a token in its address."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, self._session, httponly=True, samesite="strict", secure=self._secure
        )
        return answer


def _cookies(headers: Headers) -> Iterator[str]:
    """Yield the value of every cookie of ours.

    A browser sends along what other services of the same host have set, whatever the signs in it,
    and that may even have our name: so none of it is parsed, and none hides another.
    """
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            name, _, value = pair.partition("=")
            if name.strip() == COOKIE:
                yield value.strip()


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())
