"""`ban export`: writes a trained network to a folder that can be used without `ban`."""

from pathlib import Path

from rich.filesize import decimal

from ban.display import console, show_facts
from ban.inference.card import FILES
from ban.inference.export import export as export_folder
from ban.inference.program import ONNX, can_write_onnx
from ban.inference.trained import load
from ban.settings.schema import Settings
from ban.store.store import Store


def export(signature: str, target: Path, settings: Settings) -> None:
    """Writes the network of a stage, and says what to do with it.

    Raises:
        UserError: there is no such stage, or it cannot be exported.
    """
    store = Store(settings.machine.outputs)
    stage = load(store, signature)
    names = export_folder(stage, store, target)
    sizes = {name: decimal((target / name).stat().st_size) for name in names}
    show_facts([(f"{name}, {size}", FILES[name].replace("`", "")) for name, size in sizes.items()])
    if not can_write_onnx():
        console.print(f"model.onnx was left out: install {', '.join(ONNX)} (the extra `onnx`), and export again.")
    console.print(f"{stage.result['label']} is in {target}: python {target / 'predict.py'} FILE … uses it.")
