"""How much of everything the S3 store takes: memory, connections, time."""

from dataclasses import dataclass

MIB = 1 << 20
_MOST_PARTS = 9_000  # S3 has 10,000


@dataclass(frozen=True)
class Limits:
    """Bounds of the transfers and retries of a store.

    Attributes:
        threads: parts of one file that are on their way at once.
        part_bytes: size of a part; a file of one part is sent in one request. At least 5 MiB, which S3 asks for.
        block_bytes: how much of a part is held in memory while it is received.
        connect_s: how long to wait for a connection, in seconds.
        read_s: how long to wait for the next bytes, in seconds.
        opening_s: for how long the first request of a store is tried again, in seconds.
        patience_s: for how long any other request is tried again, in seconds.
        first_wait_s: the pause before the first new try, in seconds; each is about twice as long as the one before.
        longest_wait_s: the longest such pause, in seconds.
    """

    threads: int = 4
    part_bytes: int = 16 * MIB
    block_bytes: int = MIB // 4
    connect_s: float = 10.0
    read_s: float = 60.0
    opening_s: float = 10.0
    patience_s: float = 120.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 15.0

    def part_of(self, num_bytes: int) -> int:
        """Size of the parts of a file, in bytes: larger for one that would have too many."""
        fewest = -(-num_bytes // _MOST_PARTS)
        return max(self.part_bytes, -(-fewest // MIB) * MIB)
