"""Chance that can be repeated: a lot depends on the seed and on what it is drawn for, never on the order of events."""

from __future__ import annotations

from hashlib import blake2b


class Lots:
    """Draws lots for one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = blake2b(str(seed).encode(), digest_size=16).digest()

    def draw(self, purpose: str, subject: str) -> float:
        """A number in [0, 1): always the same for the same seed, purpose and subject."""
        digest = blake2b(f"{purpose}\0{subject}".encode("utf-8", "surrogateescape"), digest_size=7, key=self._seed)
        return int.from_bytes(digest.digest(), "big") / (1 << 56)

    def between(self, least: float, most: float, purpose: str, subject: str) -> float:
        """A number in [least, most)."""
        return least + (most - least) * self.draw(purpose, subject)
