"""What may be wrong with the files of a store: damage to a file, and wrong content with the right checksum."""

import functools
import hashlib
import io
import json
import os
import random
import socket
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from helpers import flip_a_bit
from safetensors.numpy import load, save

# Kinds of damage


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("content")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link(path: Path) -> None:
    """A link to a pipe: following it would wait."""
    target = path.with_name(".pipe")
    target.unlink(missing_ok=True)
    os.mkfifo(target)
    path.symlink_to(target.name)


def terabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(3000))


def in_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, chdir(path.parent):
        server.bind(path.name)


REPLACEMENTS = [pipe, folder, loop, broken_link, link, terabyte, garbage, in_socket, Path.touch]
"""What may stand where a file is expected."""


def replaced(path: Path, by: Callable[[Path], None]) -> None:
    path.unlink()
    by(path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{each.__name__: functools.partial(replaced, by=each) for each in REPLACEMENTS},
    **{"missing": Path.unlink, "flipped": flip_a_bit, "truncated": truncated, "longer": longer},
}

# Content that has the right checksum


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


JSON = {
    "list": b"[]",
    "number": b"7",
    "not_json": b"{",
    "deep": nested(900),
    "deeper": nested(10_000),
    "open": b"[" * 100_000,
    "large": b"{" + b" " * 60_000_000 + b"}",
    "latin": "{'ä'}".encode("latin-1"),
}


def edited(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | values).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != name}).encode()


def arrays(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: save({k: v for k, v in (load(content) | values).items() if v is not None})


def constant(content: bytes) -> Callable[[bytes], bytes]:
    return lambda before: content


ROWS, TARGETS = np.full((1697, 10), -2.3, np.float32), np.zeros(1697, np.int64)
WRONG: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    "result.json": {
        **{name: constant(content) for name, content in JSON.items()},
        **{name: without(name) for name in ("signature", "metric", "networks", "parents", "finished", "threads")},
        "infinite": edited(test_error_percent=float("inf")),
        "overflow": lambda content: content.replace(b'"threads": 1', b'"threads": 1, "more": 1e999'),
        "others_seed": edited(seed=9),
        "text": edited(parameters="many"),
        "surrogate": edited(device="\ud800"),
        "true": edited(seconds=True),
    },
    "stage.json": {
        **{name: constant(content) for name, content in JSON.items()},
        **{name: without(name) for name in ("signature", "dataset", "models", "protocol")},
        "others_seed": edited(seed=9),
        "no_list": edited(models=5),
        "others_name": edited(signature="0" * 16),
    },
    "curves.jsonl": {
        **{name: constant(content) for name, content in JSON.items()},
        "empty": constant(b""),
        "no_keys": constant(b'{"a": 1}\n' * 3),
        "one_epoch": lambda content: content.splitlines()[0],
        "an_epoch_twice": lambda content: content.splitlines()[0] + b"\n" + content,
        "text": lambda content: content.replace(b'"rate": ', b'"rate": "x", "r": '),
        "not_finite": lambda content: content.replace(b'"rate": ', b'"rate": NaN, "r": '),
    },
    "predictions.safetensors": {
        "empty": constant(b""),
        "garbage": constant(b"garbage" * 1000),
        "no_arrays": constant(save({})),
        "other_keys": arrays(logits=ROWS),
        "no_targets": arrays(targets=None),
        "other_classes": arrays(log_probabilities=ROWS[:, :9]),
        "fewer": arrays(log_probabilities=ROWS[1:], targets=TARGETS[1:]),
        "flat": arrays(log_probabilities=ROWS[:, 0].copy()),
        "out_of_range": arrays(targets=TARGETS + 10),
        "negative": arrays(targets=TARGETS - 1),
        "other_type": arrays(targets=TARGETS.astype(np.float32)),
        "not_finite": arrays(log_probabilities=ROWS * np.float32("nan")),
        "above_one": arrays(log_probabilities=-ROWS),
    },
    "weights.safetensors": {
        "empty": constant(b""),
        "garbage": constant(b"garbage" * 1000),
        "no_tensors": constant(save({})),
        "long_header": constant((2**60).to_bytes(8, "little") + b"{}"),
        "large": constant(bytes(2**27)),
    },
    "SHA256SUMS": {
        "empty": constant(b""),
        "shorter": lambda content: b"\n".join(content.splitlines()[:-1]),
        "without_weights": lambda content: b"\n".join(line for line in content.splitlines() if b"weights" not in line),
        "others": lambda content: content + b"0" * 64 + b"  ../evil\n",
        "twice": lambda content: content * 2,
        "no_sums": constant(b"hello\n"),
        "latin": constant("ä".encode("latin-1")),
    },
}
WRONG_CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda content: [],
    "no_learners": lambda content: content | {"learners": []},
    "learners_of_text": lambda content: content | {"learners": ["a"]},
    "no_network": lambda content: content | {"learners": [{"optimizer": {}}]},
    "beyond_the_end": lambda content: content | {"epoch": 7},
    "at_the_end": lambda content: content | {"epoch": 3, "step": 0, "sums": []},
    "negative": lambda content: content | {"epoch": -1},
    "beyond_the_epoch": lambda content: content | {"step": 10_000},
    "fractional": lambda content: content | {"step": 0.5},
    "text_for_curves": lambda content: content | {"curves": "abc"},
    "other_curves": lambda content: content | {"curves": [{"epoch": 9}] * content["epoch"]},
    "infinite_time": lambda content: content | {"seconds": float("inf")},
    "sums_of_text": lambda content: content | {"sums": ["a"]},
    "a_best_epoch": lambda content: content | {"best": (9, 0.5, {})},
    "no_seconds": lambda content: {key: value for key, value in content.items() if key != "seconds"},
    "more": lambda content: content | {"more": 1},
    "other_format": lambda content: content | {"format": 3},
    "other_shapes": lambda content: reshaped(content, "network"),
    "other_moments": lambda content: reshaped(content, "optimizer"),
    "teacher_of_another": lambda content: content | {"teacher": {"memory": torch.zeros(3)}},
    "no_teacher": lambda content: content | {"teacher": None},
}


def reshaped(value: Any, part: str = "") -> Any:
    """With a row more in every matrix below `part`."""
    if isinstance(value, dict):
        return {key: reshaped(item, "" if key == part else part) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [reshaped(item, part) for item in value]
    return torch.cat([value, value[:1]]) if not part and isinstance(value, torch.Tensor) and value.ndim > 1 else value


class Fault(NamedTuple):
    """Damage to a file."""

    place: str
    kind: str
    damage: Callable[[Path], None]


def faults_of(place: str, names: list[str]) -> list[Fault]:
    return [Fault(f"{place}{name}", kind, damage) for name in names for kind, damage in DAMAGES.items()]


def with_checksum(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replaces a file's content, and its checksum too."""

    def damage(path: Path) -> None:
        content = change(path.read_bytes())
        path.write_bytes(content)
        if name != "SHA256SUMS":
            sums = path.with_name("SHA256SUMS")
            lines = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {name}")]
            sums.write_text("\n".join([*lines, f"{hashlib.sha256(content).hexdigest()}  {name}\n"]))

    return damage


def checkpoint_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        torch.save(change(torch.load(path, weights_only=True)), buffer := io.BytesIO())
        path.unlink()
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path.with_name(f"{path.name[:24]}{digest}").write_bytes(buffer.getvalue())

    return damage


OF_A_STAGE = [
    *faults_of("", [*WRONG]),
    *(Fault(name, kind, with_checksum(name, change)) for name, of in WRONG.items() for kind, change in of.items()),
]
OF_CHECKPOINTS = [Fault("checkpoint", kind, checkpoint_with(each)) for kind, each in WRONG_CHECKPOINTS.items()]
