"""The door that recipients reach by the links in their mail: opens, clicks, unsubscribes. A plain ASGI application.

Decides nothing about mail: a request's token and facts become news in `posthouse.feedback`, and are handed on in batches. A GET never
changes anything for a person (UNS-4), and a link never leads where we did not put it (TRK-3).
"""

from posthouse.doors.public.door import PublicDoor

__all__ = ["PublicDoor"]
