"""Seeds of independent random streams, each derived from the name of its purpose.

Keys are hashed, not added up: with `seed + generation`, the student of seed 0 would start from the same initial weights
as the teacher of seed 1. Every stream is reseeded from its key, so no generator state has to be saved.
"""

import hashlib
import json


def stream(*key: int | str) -> int:
    """A 63-bit seed for the stream named by `key`, for example `(seed, generation, replica, "order", epoch)`."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
