"""Seeds of independent random streams, derived from what they are for.

A *hash* of the key, never a sum: with `seed + generation`, seed 0's student would start from the initialisation of
seed 1's teacher. Because every stream is reseeded from its key, there is no generator state to save.
"""

import hashlib
import json


def stream(*key: int | str) -> int:
    """A 63-bit seed for the stream named by `key`, for example `(seed, generation, replica, "order", epoch)`."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
