"""AWS Signature Version 4: what a request to Amazon carries to prove who sent it.

The signature is an HMAC over a canonical form of the request, under a key that is good for one day, one region and one service.
Source: "Signature Version 4 signing process" in the AWS General Reference; every detail is checked against botocore's signer.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(Struct, frozen=True):
    """An access key of an AWS account; session_token: only with temporary ones."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        """Only the part that is no secret, so that no log can hold the rest."""
        return f"Credentials({self.access_key_id})"


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    region: str,
    service: str,
    at: datetime,
) -> dict[str, str]:
    """The header fields that must be sent with a request besides `headers`: Host, X-Amz-Date, Authorization, perhaps a token.

    url: as it is sent, path and query encoded. headers: those that the signature shall cover. at: aware, in UTC.
    """
    parts = urlsplit(url)
    moment = at.strftime("%Y%m%dT%H%M%SZ")
    added = {"Host": parts.netloc.rpartition("@")[2], "X-Amz-Date": moment}
    if credentials.session_token is not None:
        added["X-Amz-Security-Token"] = credentials.session_token
    signed = {name.lower(): " ".join(value.split()) for name, value in (*headers.items(), *added.items())}
    names = ";".join(sorted(signed))
    request = "\n".join(
        [
            method,
            _canonical_path(parts.path),
            _canonical_query(parts.query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            sha256(body).hexdigest(),
        ]
    )
    day = moment[:8]
    scope = f"{day}/{region}/{service}/aws4_request"
    text = "\n".join([_ALGORITHM, moment, scope, sha256(request.encode()).hexdigest()])
    key = _day_key(credentials.secret_access_key, day, region, service)
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def _canonical_path(path: str) -> str:
    """Empty and dot segments resolved, then encoded once more: every service but S3 signs the path encoded twice."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    resolved = "/" + "/".join(kept)
    if kept and path.endswith("/"):
        resolved += "/"
    return quote(resolved, safe="/~")


def _canonical_query(query: str) -> str:
    pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    encoded = sorted((quote(unquote(name), safe="~"), quote(unquote(value), safe="~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


@lru_cache(64)
def _day_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
