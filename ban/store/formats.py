"""One reader for each file of a finished stage. Each checks what it reads, and raises `BadFile`."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, cast

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, deserialize  # pyright: ignore[reportUnknownVariableType]
from safetensors.numpy import load  # pyright: ignore[reportUnknownVariableType]

from ban.metrics import Predictions
from ban.plan.signature import parents_of, signature_of
from ban.store.files import BadFile
from ban.store.result import Result

DESCRIPTION = "stage.json"
RESULT = "result.json"
"""Written last: a folder that contains it is complete."""
SUMS = "SHA256SUMS"
"""The checksums of a finished stage's files, as `sha256sum -c` reads them."""
CURVES = "curves.jsonl"
PREDICTIONS = "predictions.safetensors"
VOCABULARY = "vocabulary.txt"
FILE = re.compile(
    r"stage\.json|result\.json|SHA256SUMS|curves\.jsonl|vocabulary\.txt|(weights(\.[a-z0-9]{1,16}){0,2}|predictions)\.safetensors"
)
"""The names of a stage's files."""
SIGNATURE = re.compile(r"[0-9a-f]{16}")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape in JSON that stands for half of a character, unless another one follows."""
DEPTH = 32
"""The deepest nesting of a JSON file. That of settings is below ten."""

Record = dict[str, float | None]
"""Curve → its value after an epoch; None: not a finite number."""


TERMS = "terms"
"""In the place of a network's name: the parameters and buffers of a pre-training's terms."""


def weights_file(network: str) -> str:
    """The file of one of a stage's networks."""
    return "weights.safetensors" if network == "0" else f"weights.{network}.safetensors"


def expected_files(result: Result) -> set[str]:
    """The files of a stage with this result, the checksums excepted."""
    networks = {*result.get("networks", map(str, range(result["cohort"])))} - {"ensemble"}
    names = {DESCRIPTION, RESULT, CURVES, *map(weights_file, networks)}
    names |= set() if result["prepares"] else {PREDICTIONS}
    names |= {weights_file(TERMS)} if result.get("term_values") else set()
    return names | ({VOCABULARY} if result["metric"] == "perplexity" else set())


def size_limit(name: str, description: Mapping[str, Any], result: Result) -> int:
    """The largest size in bytes that a file of this stage can have."""
    if name == CURVES:
        return 2**16 * (result["epochs"] + 1)
    if name == PREDICTIONS:
        return 2**16 + 8 * description["dataset"]["test_size"] + 4 * math.prod(_shape(description, result))
    if name == VOCABULARY:
        return 2**28
    values = result.get("term_values", 0) if name == weights_file(TERMS) else result["parameters"]
    return 2**26 + 16 * values if name.startswith("weights") else 2**20


# JSON


def dump_json(value: Any) -> bytes:
    """A value as readable JSON.

    Raises:
        ValueError: a number is not finite.
    """
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def dump_curves(records: Sequence[Mapping[str, float]]) -> bytes:
    """One line of JSON for each epoch. JSON has no infinity: numbers that are not finite become null."""
    lines = [{name: value if math.isfinite(value) else None for name, value in record.items()} for record in records]
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()


def read_json(content: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadFile: it is none, it is nested too deeply, or a number is not finite.
    """
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"is not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise BadFile("is not a JSON object")
    found = cast("dict[str, Any]", value)
    _check_depth(found)
    if SURROGATE.search(content):  # rare, so other files are spared the look at every text
        for item in values_in(found):
            if isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
                raise BadFile("has a text with half of a character")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadFile("has a number that is not finite")
    return value


def _check_depth(found: dict[str, Any]) -> None:
    level: list[dict[str, Any] | list[Any]] = [found]
    for _ in range(DEPTH):
        items: Iterator[Any] = (item for each in level for item in (each.values() if isinstance(each, dict) else each))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise BadFile(f"is nested more than {DEPTH} deep")


def values_in(value: object) -> Iterator[object]:
    """Every text and number of JSON data, keys included."""
    if not isinstance(value, dict | list):
        yield value
        return
    items = cast("dict[str, object] | list[object]", value)
    for item in (*items, *items.values()) if isinstance(items, dict) else items:
        yield from values_in(item)


# Files


def read_sums(content: bytes) -> dict[str, str]:
    """File → SHA-256.

    Raises:
        BadFile: it has another format, or a name that no file of a stage has.
    """
    sums: dict[str, str] = {}
    for line in _text(content).splitlines():
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not FILE.fullmatch(name) or name in sums:
            raise BadFile(f"has a line that is not a checksum: {line[:80]!r}")
        sums[name] = digest
    return sums


def read_description(content: bytes, signature: str | None) -> dict[str, Any]:
    """What a stage is. `signature`: the name of its folder, where it has one.

    Raises:
        BadFile: its settings do not give its signature, or it belongs to another stage.
    """
    description = read_json(content)
    named = description.get("signature")
    if named != (signature or named):
        raise BadFile(f"is that of the stage {str(named)[:16]!r}, not of {signature}")
    try:
        computed = signature_of(description)
        sizes = [description["dataset"][name] for name in ("classes", "test_size")]
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise BadFile("holds no settings of a stage") from error
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise BadFile("has no sizes of its data set")
    if named != computed:
        reason = "it was changed, or another version of ban wrote it"
        raise BadFile(f"has a signature that does not match its settings: {reason}")
    return description


@cache
def _adapter() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def read_result(content: bytes, description: Mapping[str, Any]) -> Result:
    """What was measured of the stage.

    Raises:
        BadFile: it belongs to another stage, or a field is missing or of another type.
    """
    found = read_json(content)
    whole = ("parents", "weights")
    plain = {name: value for name, value in description.items() if isinstance(value, str | int) or name in whole}
    if any(found.get(name) != value for name, value in plain.items() if name != "protocol"):
        raise BadFile("belongs to another stage")
    try:
        result = _adapter().validate_python(found, strict=True)
    except ValidationError as error:
        raise BadFile(f"has no valid {error.errors()[0]['loc'][0]}") from None
    if result["metric"] not in ("error_percent", "perplexity"):
        raise BadFile("has no valid metric")
    _check_parents(result, json.dumps(parents_of(description)))
    if not result["prepares"]:
        trained = () if "weights" in result else (f"train_{result['metric']}",)
        for name in (f"test_{result['metric']}", *trained, "networks"):
            if name not in result:
                raise BadFile(f"has no valid {name}")
    return cast("Result", found)


def _check_parents(result: Result, signed: str) -> None:
    """Names of other stages become names of folders, and are followed from stage to stage."""
    if not all(f'"{name}"' in signed for name in result["parents"]):
        raise BadFile("names a parent that is not in the settings")
    if not all(SIGNATURE.fullmatch(name) for name in result["teachers"]):
        raise BadFile("has no valid teachers")


def read_curves(content: bytes) -> list[Record]:
    """One record for each epoch.

    Raises:
        BadFile: it is no such list, or an epoch is missing.
    """
    records = [read_json(line.encode()) for line in _text(content).splitlines()]
    for epoch, record in enumerate(records, 1):
        if record.get("epoch") != epoch or not {"rate", "seconds"} <= {*record}:
            raise BadFile(f"has no record of epoch {epoch}")
        if any(not isinstance(value, int | float | None) or isinstance(value, bool) for value in record.values()):
            raise BadFile(f"has a value in epoch {epoch} that is not a number")
    return records


def read_predictions(content: bytes, description: Mapping[str, Any], result: Result) -> Predictions:
    """The predictions for the test set.

    Raises:
        BadFile: they have other names, shapes or types, or values that predictions cannot have.
    """
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, TypeError, LookupError) as error:
        raise BadFile(f"is not a file of safetensors ({error})") from error
    if {*arrays} != {"log_probabilities", "targets"}:
        raise BadFile("does not hold log_probabilities and targets alone")
    log_probabilities, targets = arrays["log_probabilities"], arrays["targets"]
    shape, classes = _shape(description, result), description["dataset"]["classes"]
    if log_probabilities.shape != shape or targets.shape != shape[:1]:
        raise BadFile(f"has shapes {log_probabilities.shape} and {targets.shape}, not {shape} and {shape[:1]}")
    if log_probabilities.dtype != np.float32 or targets.dtype != np.int64:
        raise BadFile(f"holds {log_probabilities.dtype} and {targets.dtype}, not float32 and int64")
    if not np.isfinite(log_probabilities).all() or log_probabilities.max() > 1e-3:
        raise BadFile("holds values that are not logarithms of probabilities")
    if targets.min() < 0 or targets.max() >= classes:
        raise BadFile(f"holds targets outside of its {classes} classes")
    return arrays


def check_weights(content: bytes) -> None:
    """Checks that it is a whole file of safetensors. Whether it fits the network is checked when it is loaded.

    Raises:
        BadFile: it is not.
    """
    try:
        tensors = cast("list[object]", deserialize(content))
    except SafetensorError as error:
        raise BadFile(f"is not a file of safetensors ({error})") from error
    if not tensors:
        raise BadFile("holds no weights")


def check_vocabulary(content: bytes, description: Mapping[str, Any]) -> None:
    """Checks that there is a word for each class.

    Raises:
        BadFile: there is not.
    """
    words, classes = _text(content).removesuffix("\n").split("\n"), description["dataset"]["classes"]
    if len(words) != classes or not all(words):
        raise BadFile(f"does not have {classes} words")


def _shape(description: Mapping[str, Any], result: Result) -> tuple[int, ...]:
    """The shape of the stage's log-probabilities."""
    examples, classes = description["dataset"]["test_size"], description["dataset"]["classes"]
    return (examples, classes) if result["metric"] == "error_percent" else (examples,)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"is not UTF-8 (byte {error.start})") from None
