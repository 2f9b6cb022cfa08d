"""What a provider's conversations share, and what comes out of them."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from posthouse.sandbox.manners import Manners
from posthouse.sandbox.records import Records


class Letter(Struct, frozen=True):
    """An accepted message for one recipient. content: as sent, dots unstuffed."""

    manners: Manners
    source_ip: str
    return_path: str
    rcpt: str
    message_id: str
    content: bytes


class Post(Struct, frozen=True):
    """What the conversations of one provider share. open_connections: by source address."""

    manners: Manners
    host: str
    tls: ssl.SSLContext | None
    records: Records
    deliver: Callable[[Letter], None]
    open_connections: Counter[str]
