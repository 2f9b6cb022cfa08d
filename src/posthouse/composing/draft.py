"""What goes into composing, and what comes out when there is no message."""

from __future__ import annotations

from msgspec import Struct

from posthouse.composing.compiled_kinds import Part


class Draft(Struct, frozen=True):
    """What a person gave. At least one of html, mjml and text; mjml wins over html.

    text: made from the HTML when None. track_opens, track_clicks: whether the open pixel and tracking links are put in.
    """

    subject: str
    from_address: str
    from_name: str | None = None
    reply_to: str | None = None
    html: str | None = None
    mjml: str | None = None
    text: str | None = None
    track_opens: bool = True
    track_clicks: bool = True


class Frame(Struct, frozen=True):
    """What the system adds, the same for a whole campaign.

    public_url: where the tracking and unsubscribe pages live, `https://mail.example.com`; bounce_domain: the domain of return paths;
    list_id_header: `Newsletter <news.example.com>` (UNS-8); feedback_id: `campaign:customer:type:sender` (MSG-6);
    complaints_address: for CFBL-Address (BNC-7); message_id_domain: the right side of Message-ID; postal_address: the sender's,
    lines separated by LF. An empty list_id_header, feedback_id or complaints_address leaves its field out.
    """

    public_url: str
    bounce_domain: str
    list_id_header: str
    feedback_id: str
    complaints_address: str
    message_id_domain: str
    postal_address: str


class Lacking(Struct, frozen=True):
    """No message: these required merge fields are empty for this contact."""

    fields: tuple[str, ...]


class Rendered(Struct, frozen=True):
    """What the render child made of a template's parts for one recipient, transfer-encoded; links are not sealed yet."""

    parts: dict[Part, bytes]


class RenderFailed(Struct, frozen=True):
    """No message: the template could not be rendered for this recipient.

    child_lost: the render process hung or died over it; quarantined: it did so too often, and the template is not tried again.
    """

    reason: str
    child_lost: bool = False
    quarantined: bool = False
