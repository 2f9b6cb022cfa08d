"""SigV4 against botocore's signer, and against a published vector."""

from __future__ import annotations

import string
from datetime import UTC, datetime

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.sigv4 import Credentials, sign

AT = datetime(2026, 3, 1, 22, 5, 9, tzinfo=UTC)
SENT = string.ascii_letters + string.digits + "-._~"
SEGMENT = st.text(SENT + "%20+@:!$&'()*,;", max_size=8).filter(lambda s: "%" not in s.replace("%20", ""))
VALUE = st.text(SENT + "/+ ", max_size=12).map(lambda s: s.replace(" ", "%20").replace("+", "%2B").replace("/", "%2F"))
HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "X-Amz-Meta", "X-Other", "Amz-Sdk"]),
    st.text(SENT + " ;=", max_size=20),
    max_size=4,
)


class _Signer(SigV4Auth):  # type: ignore[misc]
    """botocore's signer with the moment given by hand."""

    def add(self, request: AWSRequest) -> None:
        request.context["timestamp"] = AT.strftime("%Y%m%dT%H%M%SZ")
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))


def _botocore(
    method: str, url: str, headers: dict[str, str], body: bytes, credentials: Credentials, region: str, service: str
) -> HTTPHeaders:
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    _Signer(
        BotocoreCredentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token),
        service,
        region,
    ).add(request)
    return request.headers


@given(
    method=st.sampled_from(["GET", "POST", "PUT"]),
    segments=st.lists(SEGMENT | st.sampled_from(["..", ".", ""]), max_size=5),
    query=st.lists(st.tuples(VALUE.filter(bool), VALUE), max_size=4),
    headers=HEADERS,
    body=st.binary(max_size=100),
    token=st.none() | st.text(SENT, min_size=1),
    port=st.sampled_from(["", ":4566"]),
)
def test_every_signature_is_botocores(
    method: str,
    segments: list[str],
    query: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
    token: str | None,
    port: str,
) -> None:
    url = f"https://email.eu-west-1.amazonaws.com{port}/" + "/".join(segments)
    if query:
        url += "?" + "&".join(f"{name}={value}" for name, value in query)
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    ours = sign(method, url, headers, body, credentials, "eu-west-1", "ses", AT)
    theirs = _botocore(method, url, headers, body, credentials, "eu-west-1", "ses")
    assert ours["Authorization"] == theirs["Authorization"]
    assert ours["X-Amz-Date"] == theirs["X-Amz-Date"]
    assert ours.get("X-Amz-Security-Token") == theirs.get("X-Amz-Security-Token")


def test_the_key_of_amazons_own_example() -> None:
    # "Examples of how to derive a signing key" in the AWS General Reference: 20150830, us-east-1, iam.
    signed = sign(
        "GET",
        "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
        {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        b"",
        Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        "iam",
        datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC),
    )
    assert signed["Authorization"].endswith(
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_a_secret_is_not_printed() -> None:
    assert "secret" not in repr(Credentials("AKID", "secret", "secret too"))
