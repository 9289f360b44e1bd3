"""A trained network as a folder that a stranger can use without `ban`."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import ban
from ban.errors import UserError
from ban.inference.card import card
from ban.inference.inputs import ImageInputs, RowInputs
from ban.inference.program import Program, can_write_onnx
from ban.inference.trained import TrainedStage
from ban.report.results import Results
from ban.store.files import cause
from ban.store.store import Store

SCRIPTS = Path(__file__).parent / "scripts"


def export(stage: TrainedStage, store: Store, target: Path) -> list[str]:
    """Writes the folder completely or not at all.

    Returns:
        The names of its files.

    Raises:
        UserError: the target exists or cannot be written, or the network cannot be exported.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists already: choose another name.")
    program = Program(stage)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target.parent} cannot be written: {cause(error, target.parent)}.") from error
    try:
        _write(stage, program, store, unfinished)
        unfinished.chmod(target.parent.stat().st_mode & 0o777)
        unfinished.rename(target)
    except OSError as error:
        raise UserError(f"{target} could not be written: {cause(error, target)}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(path.name for path in target.iterdir())


def _write(stage: TrainedStage, program: Program, store: Store, folder: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in stage.network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    program.save(folder / "model.pt2")
    if can_write_onnx():
        program.save_onnx(folder / "model.onnx")
    script = {ImageInputs: "images.py", RowInputs: "rows.py"}.get(type(stage.transform), "text.py")
    shutil.copyfile(SCRIPTS / script, folder / "predict.py")
    config = _config(stage, [[*each.shape] for each in program.inputs(1)])
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    names = sorted([*(path.name for path in folder.iterdir()), "README.md"])
    (folder / "README.md").write_text(card(stage, Results(store), names), encoding="utf-8")


def _config(stage: TrainedStage, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What `predict.py` needs, and what the network is."""
    network: Mapping[str, Any] = stage.description["models"][0]
    return {
        "signature": stage.signature,
        "network": network,
        "classes": [*stage.classes],
        **_preprocessing(stage, shapes),
        "dataset": stage.description["dataset"],
        "method": stage.description["method"],
        "recipe": stage.description["recipe"],
        "versions": {**stage.result["versions"], "exported by": f"ban {ban.__version__}, torch {torch.__version__}"},
    }


def _preprocessing(stage: TrainedStage, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    inputs = stage.transform
    if isinstance(inputs, ImageInputs):
        shape = [inputs.channels, inputs.height, inputs.width]
        return {
            "input": "images [batch, channels, height, width], pixels from 0 to white",
            **{"shape": shape, "white": inputs.white, "mean": [*inputs.mean], "std": [*inputs.std]},
            "resize": "the shorter side to the size (bilinear, antialiased), then the centre",
        }
    if isinstance(inputs, RowInputs):
        fitted = {"low": [*inputs.low], "span": [*inputs.span]}
        return {"input": "rows [batch, features] in fp64", **fitted, "columns": [*inputs.columns]}
    return {"input": "words [batch], and the state, zeros at the beginning", "state": [*shapes[1]]}
