"""The content of a message on its way in: its end found, its dots unstuffed, its line ends checked (RFC 5321 §4.5.2, SMTP-9)."""

from __future__ import annotations

import re

_END = b"\r\n.\r\n"
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)


class Incoming:
    """Collects content until CRLF.CRLF and nothing else ends it; what is over the limit is dropped as it comes."""

    def __init__(self, max_bytes: int) -> None:
        # The line end before the content lets a content that is only the dot be found like any other.
        self._data = bytearray(b"\r\n")
        self._max = max_bytes
        self.is_too_big = False

    def feed(self, chunk: bytes | bytearray) -> bytes | None:
        """Add what came. Returns None while the end is missing, else what came behind the end."""
        seen = len(self._data)
        self._data += chunk
        end = self._data.find(_END, max(0, seen - len(_END) + 1))
        if end >= 0:
            rest = bytes(self._data[end + len(_END) :])
            del self._data[end + 2 :]
            self.is_too_big = self.is_too_big or len(self._data) - 2 > self._max
            return rest
        if len(self._data) > self._max + len(_END) * 2:
            self.is_too_big = True
            del self._data[: -len(_END)]
        return None

    def content(self) -> bytes:
        """The content with its dots unstuffed; CRLF lines, ending in CRLF unless empty."""
        return bytes(self._data.replace(b"\r\n.", b"\r\n"))[2:]


def has_bare_line_ends(content: bytes) -> bool:
    """Whether a CR or LF stands alone: other servers may see an end of message there, which is how mail is smuggled (CVE-2023-51764)."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") != pairs or content.count(b"\r") != pairs


def hops(content: bytes) -> int:
    """How many servers the message passed, by its Received fields (RFC 5321 §6.3)."""
    head, _, _ = content.partition(b"\r\n\r\n")
    return len(_RECEIVED.findall(head))
