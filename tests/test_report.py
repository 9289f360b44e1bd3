"""`ban report`: one page that needs no network, figures for papers, and what predictions say beyond the error."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from helpers import DIGITS, Say, cifar100, plan, predictions_of, publish, publish_predictions
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from ban import metrics
from ban.data.splits import balanced_order
from ban.report.page.chart import VALUES
from ban.report.page.chart import figure as styled
from ban.report.quality import agreement, disagreement, qualities, reliability
from ban.report.results import Results
from ban.report.statistics import Interval
from ban.settings.datasets import LabelledDataset
from ban.store.store import Store


def test_calibration_of_known_predictions() -> None:
    """A classifier that says 0.8 and is right in 3 of 4 cases, in every bin."""
    targets = np.zeros(600, np.int64)
    named = np.arange(600) % 4 == 0
    probabilities = np.where(named[:, None], [0.2, 0.8], [0.8, 0.2])
    found = reliability({"log_probabilities": np.log(probabilities), "targets": targets}, bins=3)
    np.testing.assert_allclose(found.confidence, 0.8)
    np.testing.assert_allclose(found.accuracy, 0.75)
    assert found.error == pytest.approx(5)


@pytest.mark.parametrize("right", [0.6, 0.9])
def test_fitted_temperature_of_two_classes(right: float) -> None:
    """Logits that differ by d are calibrated at T = d / log(r / (1 − r)), where a share r is classified right."""
    targets = (np.arange(1000) >= 1000 * right).astype(np.int64)
    log_probabilities = np.log(np.tile([0.95, 0.05], (1000, 1)))
    predictions = {"log_probabilities": log_probabilities, "targets": targets}
    fitted = metrics.fitted_temperature(predictions)
    assert fitted == pytest.approx(np.log(19) / np.log(right / (1 - right)), rel=1e-4)
    assert fitted is not None
    scaled = metrics.at_temperature(predictions, fitted)
    np.testing.assert_allclose(np.exp(scaled["log_probabilities"][:, 0]), right, rtol=1e-4)
    assert reliability(scaled, bins=1).error == pytest.approx(0, abs=1e-2)


def test_a_temperature_counts_where_it_was_fitted(tmp_path: Path) -> None:
    """Not so for what version 0.2.0 stored."""
    store, stages = Store(tmp_path), [plan("method=labels", f"seed={seed}")[0] for seed in range(3)]
    for wrong, stage in enumerate(stages):
        files = {"predictions.safetensors": partial(save_file, predictions_of(stage, wrong))}
        publish(store, stage, files, test_error_percent=10.0 * wrong, **({"fitted_temperature": 1.5} if wrong else {}))
    found = qualities((stages[0].family,), Results(store), 3)
    assert found["fitted temperature"].count == 2 and found["ECE, points"].count == 3


def test_agreement_of_known_predictions() -> None:
    targets = np.zeros(2, np.int64)
    ours = {"log_probabilities": np.log([[0.75, 0.25], [0.75, 0.25]]), "targets": targets}
    theirs = {"log_probabilities": np.log([[0.5, 0.5], [0.25, 0.75]]), "targets": targets}
    found = agreement(ours, theirs)
    divergences = [0.75 * np.log(0.75 / q) + 0.25 * np.log(0.25 / (1 - q)) for q in (0.5, 0.25)]
    assert found.same_class_percent == 50 and found.divergence == pytest.approx(np.mean(divergences))


def test_disagreement_is_the_mean_over_pairs_of_members() -> None:
    members = [{"log_probabilities": np.log(np.eye(2)[named] + 0.1)} for named in ([0, 0], [0, 1], [1, 1])]
    assert disagreement(members) == pytest.approx((50 + 100 + 50) / 3)


def test_clusters_that_an_interval_needs() -> None:
    """A standard deviation of 1: t(17) / √18 = 0.497, t(16) / √17 = 0.514."""
    assert Interval.of([-1.0, 0.0, 1.0]).needed(0.5) == 18
    assert Interval.of([-1.0, 0.0, 1.0]).needed(1e-9) is None
    assert Interval.of([1.0]).needed(0.5) is None and Interval.of([1.0, 1.0]).needed(0.5) is None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three seeds of a lineage, of which the students are better."""
    store = Store(tmp_path / "outputs")
    for seed in range(3):
        for generation, stage in enumerate(plan("method=ban", "generations=2", f"seed={seed}")):
            publish_predictions(store, stage, wrong=5 - generation)
    return store


def test_the_page_needs_no_network_and_shows_every_stage(store: Store, say: Say, tmp_path: Path) -> None:
    said = say("report", "figures=figures")
    page = (tmp_path / "outputs" / "report" / "index.html").read_text(encoding="utf-8")
    assert "outputs/report/index.html" in said
    markup = page.split("<script>")[0]
    assert "http" not in markup and not re.search(r"<(link|script)[^>]+(src|href)=", page)
    assert all(f'id="s{signature}"' in markup for signature in store.finished())
    assert "Ens*2" in markup and "9 stages" in markup
    assert len({*re.findall('href="#([^"]+)"', markup)}) > 9
    assert {*re.findall('href="#([^"]+)"', markup)} <= {*re.findall('id="([^"]+)"', markup)}
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {f"00 generations.{suffix}" for suffix in ("svg", "pdf", "png", "csv")} <= names
    assert (tmp_path / "figures" / "00 generations.pdf").read_bytes().startswith(b"%PDF")


def figure(folder: Path, name: str) -> list[dict[str, str]]:
    """The data of a figure that `ban report figures=` wrote."""
    (path,) = folder.glob(f"?? {name}.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_figures_of_a_lineage_of_classifiers(store: Store, say: Say, tmp_path: Path) -> None:
    """Teachers err in 50 %, their students in 40 and 30 %, all in the first of ten classes."""
    say("report", "figures=figures")
    changes = {row["class"]: float(row["change"]) for row in figure(tmp_path / "figures", "classes")}
    assert changes["0"] == pytest.approx(-20, abs=0.1) and {value for key, value in changes.items() if key > "0"} == {0}
    nodes = {row["family"]: row for row in figure(tmp_path / "figures", "lineage")}
    assert [*nodes] == ["Teacher", "BAN-1", "BAN-2"] and {row["stages"] for row in nodes.values()} == {"3"}
    assert nodes["BAN-2"]["test"] == "test error 30.00 %"
    assert {row["row"]: row["stages"] for row in figure(tmp_path / "figures", "costs")} == dict.fromkeys(nodes, "3")


def test_agreement_is_that_of_one_lineage_also_where_seeds_have_splits_of_their_own(say: Say, tmp_path: Path) -> None:
    """Students differ from their teachers in a fifth of the examples, and are tested on other ones for each seed."""
    store = Store(tmp_path / "outputs")
    for seed in range(4):
        for generation, stage in enumerate(plan("method=ban", "generations=2", f"seed={seed}")):
            tensors = predictions_of(stage, wrong=5 - 2 * generation) | {
                "targets": np.full(stage.dataset.test_size, seed)
            }
            publish(store, stage, {"predictions.safetensors": partial(save_file, tensors)})
    say("report", "figures=figures")
    found = {(row["row"], row["column"]): float(row["agreement"]) for row in figure(tmp_path / "figures", "agreement")}
    assert len(found) == 9 and found["Teacher", "BAN-1"] == pytest.approx(80, abs=0.1)


def test_pictures_are_those_of_the_test_images_that_changed(store: Store, say: Say, tmp_path: Path) -> None:
    """The second generation classifies some tenths of the test images right that its teacher does not."""
    (stage,) = [each for each in plan("method=ban", "generations=2", "seed=0") if each.generation == 2]
    say("report")
    page = (tmp_path / "outputs" / "report" / "index.html").read_text(encoding="utf-8")
    title = re.search("<h3>(Seed 0, BAN-2 is right, its teacher is not: 12 of [0-9]+ test images)</h3>", page)
    assert title, "no pictures"
    shown = [base64.b64decode(each) for each in re.findall('src="data:image/png;base64,([^"]+)"', page)]
    ours, theirs = predictions_of(stage, wrong=3), predictions_of(stage, wrong=5)
    right, before = (each["log_probabilities"].argmax(-1) == each["targets"] for each in (ours, theirs))
    digits: Any = load_digits()
    sizes = stage.dataset
    assert isinstance(sizes, LabelledDataset)
    order = balanced_order(digits.target, sizes.split_seed)[sizes.train_size :][: sizes.test_size]
    images = digits.images[order][right & ~before]
    pixels = [np.asarray(Image.open(io.BytesIO(each))) for each in shown]
    assert len(pixels) == 12
    assert all(any(np.array_equal((one * 255 / 16).round(), each) for one in images) for each in pixels)


@pytest.mark.parametrize("part", ["dataset", "augmentation"])
def test_pictures_run_no_code_that_a_stage_names(part: str, say: Say, tmp_path: Path, monkeypatch: Any) -> None:
    """As if somebody had sent the stages: their data set, or a part of it, is a function of another module."""
    (tmp_path / "theirs.py").write_text("from pathlib import Path\ndef harm(**_): Path('harmed').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    store = Store(tmp_path / "outputs")
    for generation, stage in enumerate(plan("method=ban")):
        dataset = stage.settings["dataset"]
        (dataset if part == "dataset" else dataset[part])["_target_"] = "theirs.harm"
        publish_predictions(store, stage, wrong=5 - generation)
    say("report")
    assert not (tmp_path / "harmed").exists()
    assert "data:image/png" not in (tmp_path / "outputs" / "report" / "index.html").read_text(encoding="utf-8")


def test_the_lineage_shows_what_prepared_a_student(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    for stage in plan("method=fitnets", "model=wrn_10_1", "model@teacher.model=wrn_10_2"):
        publish_predictions(store, stage, wrong=3)
    say("report", "figures=figures")
    nodes = [row["family"] for row in figure(tmp_path / "figures", "lineage")]
    assert len(nodes) == 3, nodes


def test_curves_have_titles_and_diagnostics_a_figure_of_their_own(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    records = [
        {"epoch": n, "rate": 1 / n, "seconds": n, "teacher": 2 / n, "train_error_percent": 50 / n, "diagnosis.tckd": n}
        for n in range(1, 1001)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    for stage in plan("method=ban", "recipe.epochs=1000"):
        publish(store, stage, {"curves.jsonl": lambda path: path.write_text(text)})
    say("report", "figures=figures")
    curves = figure(tmp_path / "figures", "curves")
    assert {row["curve"] for row in curves} == {
        "learning rate, relative to the recipe's",
        "loss: teacher",
        "train error in %",
    }
    assert len({row["epoch"] for row in curves}) == 200 and max(int(row["epoch"]) for row in curves) == 1000
    assert {row["curve"] for row in figure(tmp_path / "figures", "gradients")} == {"TCKD, nats"}


def test_a_figure_may_show_as_many_values_as_curves_have() -> None:
    data = pd.DataFrame({"epoch": range(VALUES)})
    chart = styled("curves", "Curves", "", alt.Chart(data).mark_point().encode(x="epoch:Q"), data).chart
    assert [len(values) for values in chart.to_dict()["datasets"].values()] == [VALUES]  # Altair alone refuses 5,000


def test_words_by_frequency(say: Say, tmp_path: Path) -> None:
    """The student gains 0.5 nats for the word that occurs once, and nothing for the frequent one."""
    store = Store(tmp_path / "outputs")
    for stage in plan("method=ban", kind="language"):
        targets = np.full(stage.dataset.test_size, 7)  # 464
        targets[3] = 1
        gain = np.where((targets == 1) & bool(stage.generation), 0.5, 0)
        tensors = {"log_probabilities": (gain - 3).astype(np.float32), "targets": targets}
        publish(store, stage, {"predictions.safetensors": partial(save_file, tensors)})
    say("report", "figures=figures")
    rows = [(row["frequency"], float(row["gain"]), row["words"]) for row in figure(tmp_path / "figures", "words")]
    assert rows == [("1", 0.5, "1"), ("256–511", 0.0, "463")]


@pytest.mark.skipif(not shutil.which("chromium"), reason="looks at the page in Chromium, which is not installed")
def test_a_browser_draws_the_page_without_errors(store: Store, say: Say, tmp_path: Path) -> None:
    say("report")
    page = tmp_path / "outputs" / "report" / "index.html"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    words = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    words += ["--window-size=1200,8000", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.stdout.count("data-spec=") == len(re.findall(r"<svg [^>]*marks", done.stdout)) > 3, done.stdout[-9000:]
    assert done.stdout.count("<th scope") == done.stdout.count("<button>")


def test_hostile_names_are_text(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
    for stage in plan("method=ban", f"method.title='{evil}'", f"model.title='{evil}'", f"dataset.title='{evil}'"):
        publish_predictions(store, stage, wrong=3)
    say("report", "figures=figures")
    page = (tmp_path / "outputs" / "report" / "index.html").read_text(encoding="utf-8")
    shown, specs = page.split("<script>")[0], page.split('id="specs">')[1].split("</script>")[0]
    assert "<img" not in shown + specs and "&lt;img" in shown and "alert" in specs


def test_damaged_stages_are_listed(store: Store, say: Say, tmp_path: Path) -> None:
    damaged = store.finished()[0]
    (store.folder(damaged) / "stage.json").write_text("{}")
    say("report")
    page = (tmp_path / "outputs" / "report" / "index.html").read_text(encoding="utf-8")
    assert "cannot be read" in page and damaged in page


def test_an_empty_store_is_a_sentence(say: Say) -> None:
    with pytest.raises(SystemExit, match="nothing is stored in outputs: train something first"):
        say("report")


def test_a_report_on_an_experiment_has_its_stages_only(store: Store, say: Say, tmp_path: Path) -> None:
    (stage,) = cifar100("method=labels", "model=wrn_28_1")
    publish(store, stage)
    with pytest.raises(SystemExit, match="nothing is stored in outputs of table1"):
        say("report", "table1")
    say("report", "demo", *DIGITS[3:])
    page = (tmp_path / "outputs" / "report" / "demo.html").read_text(encoding="utf-8")
    assert stage.signature not in page
    with pytest.raises(SystemExit, match="nothing is stored in outputs of born_again"):
        say("report", "born_again", "scale=budget")  # which is a choice of files, and no setting itself


def test_figures_that_cannot_be_written_are_a_sentence(store: Store, say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="the report could not be written"):
        say("report", "figures=file/below")
