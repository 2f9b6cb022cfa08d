"""The processes of one host: a supervisor, the front (doors and loops), and one sender per core; each stops cleanly.

Children are told everything by their command line and environment, and die with their supervisor.
"""

from posthouse.doors.worker.supervisor import Supervisor

__all__ = ["Supervisor"]
