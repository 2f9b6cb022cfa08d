"""The SMTP door: takes in what comes back to our return paths, complaint addresses and role addresses (BNC-3, BNC-8).

A 250 means that the mail is committed. Relays nothing, ever: a recipient that the house does not know is refused in the conversation,
so that no bounce of ours goes to a forged sender. Knows nothing of what the mail says.
"""

from posthouse.doors.smtpd.admission import Admission, Limits
from posthouse.doors.smtpd.door import InboundDoor

__all__ = ["Admission", "InboundDoor", "Limits"]
