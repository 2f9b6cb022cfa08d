"""What the compiled template, the child and the parent must agree on. Loaded by the child: it must import little."""

from __future__ import annotations

from posthouse.composing.compiled_kinds import TokenKind
from posthouse.composing.escaping import Place

# Variables that the parent adds. The lint refuses names that begin with an underscore, so no template can speak of them.
TOKEN_NAMES = {TokenKind.CLICK: "_click", TokenKind.OPEN: "_open", TokenKind.UNSUBSCRIBE: "_unsubscribe"}
# One filter for each place where a value may stand, and for values inside a target that the parent must seal.
PLACE_FILTERS = {Place.TEXT: "_text", Place.MARKUP: "_markup", Place.URL: "_url", Place.URL_START: "_whole_url"}
TARGET_FILTERS = {Place.URL: "_target", Place.URL_START: "_whole_target"}
# For Subject, which the parent encodes.
PLAIN_FILTER = "_plain"
# Around such a target. Encoded text holds no control octets but CR and LF, so a template cannot write these itself.
TARGET_BEGINS, TARGET_ENDS = "\x01", "\x02"
