"""Trained networks outside of trainings: they predict what was measured, in Python, by `ban predict` and exported."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DIGITS, KINDS, LANGUAGE, ROWS, Say, host, quiet
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

import ban
from ban.data.corpus import END, read
from ban.data.pictures import decode
from ban.errors import UserError
from ban.inference.inputs import ImageInputs, RowInputs
from ban.inference.program import Program
from ban.inference.trained import TrainedStage
from ban.models import DenseNet, PreActivationResNet, Torchvision, WideResNet
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.settings.construct import foreign_target
from ban.store.store import Store
from ban.training import build
from ban.training.run import run
from ban.training.signals import Signals

TRAINED = {
    "images": [*DIGITS, "method=ban", "generations=2", "recipe.epochs=4"],
    "tabular": [*ROWS, "dataset=breast_cancer", "method=labels", "recipe.epochs=3"],
    "language": [*LANGUAGE, "model=cnn_lstm_small", "model.units=16", "method=labels", "recipe.epochs=1"],
}
ALL_DIGITS = load_digits()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a lineage of each kind of data."""
    folder = tmp_path_factory.mktemp("outputs")
    for words in TRAINED.values():
        settings = compose_settings([*words, f"machine.outputs={folder}"])
        for stage in lineage(settings):
            run(stage, host(settings), quiet, Signals())
    return folder


@pytest.fixture(scope="module")
def stages(outputs: Path) -> dict[str, str]:
    """Kind of data → signature of its latest stage."""
    planned = {
        kind: lineage(compose_settings([*words, f"machine.outputs={outputs}"])) for kind, words in TRAINED.items()
    }
    return {kind: stages[-1].signature for kind, stages in planned.items()}


def digit(place: int, folder: Path) -> Path:
    """A digit as a file with pixels from 0 to 255."""
    path = folder / f"{place}.png"
    Image.fromarray(np.rint(ALL_DIGITS.images[place] * 255 / 16).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("kind", ["images", "tabular"])
def test_a_loaded_network_predicts_what_was_measured(kind: str, outputs: Path, stages: dict[str, str]) -> None:
    stage = ban.load(outputs, stages[kind][:6])
    bunch = ALL_DIGITS if kind == "images" else load_breast_cancer()
    examples: Any = bunch.images.astype(np.uint8) if kind == "images" else bunch.data
    planned = compose_settings(TRAINED[kind])
    data: Any = build.data(lineage(planned)[-1], planned.machine, torch.device("cpu"))
    views = torch.cat([batch.views[0] for batch in data.evaluation("test")])
    transformed = torch.stack([stage.transform(example) for example in examples])
    assert {each.numpy().tobytes() for each in views} <= {each.numpy().tobytes() for each in transformed}
    stored = Store(outputs).predictions(stages[kind])["log_probabilities"]
    np.testing.assert_allclose(stage.log_probabilities(views), stored, atol=1e-5)


def test_a_loaded_language_model_has_the_measured_perplexity(outputs: Path, stages: dict[str, str]) -> None:
    stage = ban.load(outputs, stages["language"])
    words = read(str(Path(__file__).parent / "text.txt")).test
    text = " ".join("\n" if word == END else word for word in words)
    assert stage.perplexity(text) == pytest.approx(stage.result["test_perplexity"], rel=1e-6)
    assert {*words} - {END} <= {*stage.classes}


def test_classes_have_their_names(outputs: Path, stages: dict[str, str]) -> None:
    assert ban.load(outputs, stages["tabular"]).classes == ["malignant", "benign"]
    assert ban.load(outputs, stages["images"]).classes == [*"0123456789"]


def test_results_have_one_typed_row_a_stage(outputs: Path, stages: dict[str, str]) -> None:
    table = ban.results(outputs).set_index("signature")
    assert len(table) == 5 and table.loc[stages["images"], "label"] == "BAN-2"
    kinds = {name: str(table[name].dtype) for name in ("seed", "test_error_percent", "test_perplexity", "label")}
    assert kinds == {"seed": "Int64", "test_error_percent": "Float64", "test_perplexity": "Float64", "label": "string"}
    assert table["finished"].is_monotonic_increasing and str(table["finished"].dtype).endswith("UTC]")
    assert table.loc[stages["images"], "teachers"][0] in table.index


def test_results_need_no_torch(outputs: Path) -> None:
    code = f"import ban, sys; ban.results({str(outputs)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("target", ["os.system", "ban.models.lstm.torch.load", "ban.store.files.delete"])
def test_what_is_defined_elsewhere_is_foreign(target: str) -> None:
    node = {"_target_": "ban.models.MLP", "part": [{"_target_": target}]}
    assert foreign_target(node, ["ban.models"]) == target
    assert foreign_target({"_target_": "torch.nn.Linear"}, ["ban.models", "torch.nn"]) is None
    with pytest.raises(UserError, match="cannot be imported"):
        foreign_target({"_target_": "ban.models.no"}, ["ban.models"])


@pytest.mark.parametrize(("signature", "reason"), [("0123456789abcdef", "no signature begins"), ("", "5 signatures")])
def test_a_stage_that_is_not_there_is_named(signature: str, reason: str, outputs: Path) -> None:
    with pytest.raises(UserError, match=reason):
        ban.load(outputs, signature)


def test_a_network_that_is_not_there_is_named(outputs: Path, stages: dict[str, str]) -> None:
    with pytest.raises(UserError, match="has no network 'average': its networks are 0"):
        ban.load(outputs, stages["images"], network="average")


# ban predict


def test_predictions_of_a_folder_are_written(outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    files = [digit(place, pictures if place < 60 else pictures / "more") for place in range(70)]
    said = say("predict", stages["images"], "pictures", "output=found.csv", f"machine.outputs={outputs}")
    assert "70 predictions in found.csv" in said
    rows = [*csv.DictReader((tmp_path / "found.csv").read_text().splitlines())]
    assert {row["file"] for row in rows} == {str(file.relative_to(tmp_path)) for file in files}
    stage = ban.load(outputs, stages["images"])
    for row in rows:
        probabilities = stage.probabilities([tmp_path / row["file"]])[0]
        assert stage.classes[probabilities.argmax()] == row["class"]
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=1e-5)


def test_several_stages_are_averaged(outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say) -> None:
    digit(3, tmp_path)
    teacher = ban.results(outputs).set_index("signature").loc[stages["images"], "teachers"][0]
    say("predict", stages["images"], teacher, "3.png", "output=found.jsonl", f"machine.outputs={outputs}")
    found = json.loads((tmp_path / "found.jsonl").read_text())["classes"]
    each = [ban.load(outputs, name).probabilities([tmp_path / "3.png"])[0] for name in (stages["images"], teacher)]
    expected = np.sort(np.mean(each, axis=0))[::-1][:5]
    np.testing.assert_allclose([one["probability"] for one in found], expected, atol=1e-6)


def test_bad_files_are_named_and_the_rest_goes_on(
    outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say
) -> None:
    digit(0, tmp_path)
    (tmp_path / "bad.png").write_bytes(b"")
    words = ["predict", stages["images"], "bad.png", "0.png", "output=found.csv", f"machine.outputs={outputs}"]
    with pytest.raises(SystemExit, match=r"1 file could not be used:\n  bad.png is no image of a known format"):
        say(*words)
    assert len([*csv.DictReader((tmp_path / "found.csv").read_text().splitlines())]) == 1


def test_rows_and_texts_are_predicted(outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say) -> None:
    data = load_breast_cancer()
    np.savetxt(tmp_path / "rows.csv", data.data[:3], delimiter=",", header=",".join(data.feature_names), comments="")
    say("predict", stages["tabular"], "rows.csv", "output=rows.jsonl", f"machine.outputs={outputs}")
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    expected = ban.load(outputs, stages["tabular"]).probabilities([*data.data[:3]]).max(1)
    np.testing.assert_allclose([row["classes"][0]["probability"] for row in found], expected, atol=1e-6)
    (tmp_path / "some.txt").write_text("never-seen\n")
    said = say("predict", stages["language"], "some.txt", f"machine.outputs={outputs}")
    assert "perplexity" in said and "50.0 %" in said  # one of two: the end of the line is known


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["images"], "use: ban predict"),
        (["images", "nowhere"], "there is no file or folder nowhere"),
        (["images", "empty"], "empty has no files that end in"),
        (["images", "rows.csv", "output=x.txt"], "output=x.txt must end in .csv or .jsonl"),
        (["images", "language", "rows.csv"], "cannot be averaged"),
        (["tabular", "rows.csv"], r"rows.csv: row 1 does not have 30 numbers"),
        (["tabular", "rows.csv", "output=none/x.csv"], "none/x.csv could not be written"),
    ],
)
def test_bad_words_are_refused(
    words: list[str], reason: str, outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=reason):
        say("predict", *(stages.get(word, word) for word in words), f"machine.outputs={outputs}")
    assert sorted(tmp_path.rglob("*")) == before


# ban export


def run_script(folder: Path, *arguments: str) -> str:
    """The exported script in a process that has no `ban`."""
    code = "import runpy, sys; sys.modules['ban'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    words = [sys.executable, "-c", code, str(folder / "predict.py"), *arguments]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_exported_images_networks_predict_the_same(
    outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say
) -> None:
    said = say("export", stages["images"][:8], "folder", f"machine.outputs={outputs}")
    assert "BAN-2 is in folder" in said
    names = {"README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors", "predict.py"}
    assert {path.name for path in (tmp_path / "folder").iterdir()} == names
    file = digit(7, tmp_path)
    shown = run_script(tmp_path / "folder", str(file)).split()
    probabilities = ban.load(outputs, stages["images"]).probabilities([file])[0]
    assert shown[1] == f"{probabilities.argmax()}:" and float(shown[2]) == pytest.approx(probabilities.max(), abs=1e-5)
    readme = (tmp_path / "folder" / "README.md").read_text()
    assert "1. Teacher: Small-Conv, taught by labels" in readme and "3. BAN-2" in readme
    with pytest.raises(SystemExit, match="folder exists already"):
        say("export", stages["images"], "folder", f"machine.outputs={outputs}")


def test_exported_networks_of_rows_and_words_predict_the_same(
    outputs: Path, stages: dict[str, str], tmp_path: Path, say: Say
) -> None:
    data = load_breast_cancer()
    np.savetxt(tmp_path / "rows.csv", data.data[:2], delimiter=",", header=",".join(data.feature_names), comments="")
    say("export", stages["tabular"], "rows", f"machine.outputs={outputs}")
    shown = run_script(tmp_path / "rows", str(tmp_path / "rows.csv")).splitlines()
    probabilities = ban.load(outputs, stages["tabular"]).probabilities([*data.data[:2]])
    for line, expected in zip(shown, probabilities, strict=True):
        assert float(line.split()[3]) == pytest.approx(expected.max(), abs=1e-5)
    lines = (Path(__file__).parent / "text.txt").read_text().splitlines()[:20]
    (tmp_path / "some.txt").write_text("\n".join([*lines, "never-seen <eos>", ""]))
    say("export", stages["language"], "words", f"machine.outputs={outputs}")
    shown = run_script(tmp_path / "words", str(tmp_path / "some.txt"))
    expected = ban.load(outputs, stages["language"]).perplexity((tmp_path / "some.txt").read_text())
    assert f"perplexity {expected:.2f} over" in shown


def test_a_table_with_categories_and_gaps_is_read_as_in_training(tmp_path: Path, say: Say) -> None:
    rows = [f"{['', k][k > 3]},{['red', 'green', ''][k % 3]},{['cat', 'dog'][k % 2]}" for k in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["weight,colour,kind", *rows]))
    words = ["dataset=rows", "dataset.path=a.csv", "dataset.target=kind", "dataset.missing=mean", "model=mlp_16"]
    say(*words, "method=labels", "recipe.epochs=2", "recipe.batch_size=8", "machine=single_threaded")
    (signature,) = Store(tmp_path / "outputs").finished()
    say("predict", signature, "a.csv", "output=found.jsonl")
    say("export", signature, "folder")
    lines = [json.loads(line)["classes"][0] for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    shown = [line.split()[2:4] for line in run_script(tmp_path / "folder", str(tmp_path / "a.csv")).splitlines()]
    assert [name for name, _ in shown] == [f"{found['class']}:" for found in lines]
    np.testing.assert_allclose([float(p) for _, p in shown], [found["probability"] for found in lines], atol=1e-5)
    (tmp_path / "b.csv").write_text("weight,colour,kind\n1,blue,cat\n")
    with pytest.raises(SystemExit, match="colour has an unknown category in row 1, 'blue'"):
        say("predict", signature, "b.csv")


NETWORKS: dict[str, nn.Module] = {
    "wide resnet": WideResNet(10, 1, 0.3, classes=5, channels=3),
    "densenet": DenseNet(2, 4, classes=5, channels=3),
    "torchvision's resnet": Torchvision("resnet18", small_images=True, classes=5, channels=3),
    "pre-activation resnet": PreActivationResNet(11, classes=5, channels=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_large_networks_are_exported_without_a_difference(name: str, tmp_path: Path) -> None:
    inputs = ImageInputs(3, 16, 16, 255, (125.0, 123.0, 114.0), (63.0, 62.0, 67.0))
    network = NETWORKS[name].requires_grad_(False).eval()
    stage = TrainedStage("0" * 16, {}, {}, network, [*"abcde"], inputs)  # pyright: ignore[reportArgumentType]
    program = Program(stage)
    program.save(tmp_path / "model.pt2")
    (images,) = program.inputs(3)
    exported = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        assert torch.equal(exported(images), network(inputs.normalisation()(images)).logits)


def test_the_script_reads_pictures_as_training_does(tmp_path: Path) -> None:
    """Colour modes, transparency, 16 bits, rotation and size: the pixels that the script computes."""
    script = (Path(ban.__file__).parent / "inference" / "scripts" / "images.py").read_text()
    assert len(script.splitlines()) <= 25
    body = script[script.index("    with Image.open") : script.index("    pixels = (pixels")]
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    pictures = {
        "grey.png": Image.fromarray(noise[..., 0]),
        "colour.jpg": Image.fromarray(noise[..., :3]),
        "alpha.png": Image.fromarray(noise),
        "palette.gif": Image.fromarray(noise[..., :3]).quantize(16),
        "cmyk.tif": Image.fromarray(noise[..., :3]).convert("CMYK"),
        "deep.png": Image.fromarray(noise.view(np.uint16)[..., 0].copy()),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, picture in pictures.items():
        picture.save(tmp_path / name, exif=exif) if name == "colour.jpg" else picture.save(tmp_path / name)
        for channels in (1, 3):
            found: dict[str, Any] = {"name": str(tmp_path / name), "channels": channels, "height": 12, "width": 12}
            exec("import torch\nfrom PIL import Image, ImageOps\nif True:\n" + body, found)
            np.testing.assert_array_equal(found["pixels"].numpy(), decode(tmp_path / name, 12, channels), name)


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"shape \[2, 3\], not \[rows, 2 features\]"):
        RowInputs((0.0, 0.0), (1.0, 1.0)).batch(np.zeros((2, 3)))
    with pytest.raises(UserError, match="row 2 has no finite number in column 1"):
        RowInputs((0.0, 0.0), (1.0, 1.0)).batch(np.array([[1.0, 2.0], [np.nan, 1.0]]))
    images = ImageInputs(1, 8, 8, 16, (0.0,), (16.0,))
    with pytest.raises(UserError, match=r"shape \[9, 8, 1\], not \[height, width, channels\] = \[8, 8, 1\]"):
        images(np.zeros((9, 8), np.uint8))


def test_every_kind_of_data_is_tested() -> None:
    assert {*TRAINED} == {*KINDS}
