"""Posthouse: self-hosted mass email. Start reading at `posthouse.flows`."""

__version__ = "0.1.0"
