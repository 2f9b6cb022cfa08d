"""Wire formats as pure functions: addresses, MIME, DKIM, replies, reports, tokens; rules as data.

Never does I/O, never reads a clock, knows no room.
"""
