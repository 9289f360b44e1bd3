"""Own rows: read from every format, encoded in one way, split, scaled and refused as documented."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Say, host, quiet
from sklearn.datasets import load_breast_cancer, load_wine

import ban
from ban.data.rows import Request, encode, found, read_table
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.training import build
from ban.training.run import run
from ban.training.signals import Signals

WINE = load_wine(as_frame=True).frame
MIXED = pd.DataFrame(
    {
        "weight": [float(number) for number in range(40)],
        "colour": ["red", "green"] * 20,
        "old": [True, False, False, True] * 10,
        "same": ["x"] * 40,
        "kind": ["cat", "dog"] * 20,
    }
)


def words(path: Path, target: str, *more: str) -> list[str]:
    own = ["dataset=rows", f"dataset.path='{path}'", f"dataset.target={target}", "model=mlp_16", "recipe=tabular"]
    return [*own, "method=labels", "recipe.epochs=2", "recipe.batch_size=16", "machine=single_threaded", *more]


def planned(path: Path, target: str, *more: str) -> Stage:
    return lineage(compose_settings(words(path, target, *more)))[-1]


def data_of(path: Path, target: str, *more: str) -> Any:
    settings = compose_settings(words(path, target, *more))
    return build.data(lineage(settings)[-1], settings.machine, torch.device("cpu"))


def write_csv(table: pd.DataFrame, path: Path, **options: Any) -> Path:
    table.to_csv(path, index=False, **options)
    return path


FORMS = {
    "csv": lambda table, folder: write_csv(table, folder / "a.csv"),
    "semicolons": lambda table, folder: write_csv(table, folder / "b.csv", sep=";"),
    "tabs": lambda table, folder: write_csv(table, folder / "c.tsv", sep="\t"),
    "Windows": lambda table, folder: write_csv(table, folder / "d.csv", lineterminator="\r\n", encoding="utf-8-sig"),
    "shuffled": lambda table, folder: write_csv(table.sample(frac=1, random_state=0), folder / "e.csv"),
    "parquet": lambda table, folder: (table.to_parquet(folder / "f.parquet"), folder / "f.parquet")[1],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_the_same_experiment(form: str, tmp_path: Path) -> None:
    signatures = []
    for name in ("csv", form):
        (tmp_path / name).mkdir(exist_ok=True)
        signatures.append(planned(FORMS[name](MIXED, tmp_path / name), "kind", "dataset.missing=null").signature)
    assert signatures[0] == signatures[1]


def test_other_content_is_another_experiment(tmp_path: Path) -> None:
    changed = MIXED.assign(weight=MIXED["weight"].where(MIXED.index > 0, 0.5))
    paths = [write_csv(table, tmp_path / f"{name}.csv") for name, table in (("a", MIXED), ("b", changed))]
    assert planned(paths[0], "kind").signature != planned(paths[1], "kind").signature


def test_columns_become_features(tmp_path: Path) -> None:
    table = found(Request(str(write_csv(MIXED, tmp_path / "a.csv")), "kind"))
    assert [column["name"] for column in table.columns] == ["weight", "colour", "old"]
    assert table.columns[1]["values"] == ["green", "red"] and table.constant == ["same"]
    order = np.argsort(table.rows[:, 0])
    np.testing.assert_array_equal(table.rows[order, 0], np.arange(40))
    np.testing.assert_array_equal(table.rows[order, 1:3], [[0, 1], [1, 0]] * 20)
    assert [table.class_names[label] for label in table.labels[order][:2]] == ["cat", "dog"]


def test_rows_are_scaled_by_the_training_rows(tmp_path: Path) -> None:
    data = data_of(write_csv(WINE, tmp_path / "wine.csv"), "target", "dataset.test_size=78")
    train, test = (torch.cat([batch.views[0] for batch in data.evaluation(split)]) for split in ("train", "test"))
    assert len(train) == 100 and len(test) == 78
    assert torch.equal(train.amin(0), torch.zeros(13)) and torch.equal(train.amax(0), torch.ones(13))


def test_missing_numbers_are_the_training_rows_mean(tmp_path: Path) -> None:
    gaps = MIXED.copy()
    gaps.loc[[3, 4], "weight"] = np.nan
    gaps.loc[[5], "colour"] = None
    path = write_csv(gaps, tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"missing values in weight \(2\), colour \(1\): .* dataset.missing=mean"):
        planned(path, "kind")
    data = data_of(path, "kind", "dataset.missing=mean")
    raw = found(Request(str(path), "kind", missing="mean")).rows
    assert np.isnan(raw[:, 0]).sum() == 2
    train = torch.cat([batch.views[0] for batch in data.evaluation("train")]).numpy()
    known = train[:, 0] * data.preprocessing["span"][0] + data.preprocessing["low"][0]
    numbers = [value for value in known if abs(value - round(value)) < 1e-4]
    assert data.preprocessing["fill"][0] == pytest.approx(np.mean(numbers), abs=1.0)
    assert any(
        column.get("values", [])[-1:] == ["(missing)"]
        for column in found(Request(str(path), "kind", missing="mean")).columns
    )


def test_new_rows_are_encoded_alike(tmp_path: Path) -> None:
    path = write_csv(MIXED, tmp_path / "a.csv")
    table = found(Request(str(path), "kind"))
    again = encode(table.columns, read_table(path))
    assert {row.tobytes() for row in again} == {row.tobytes() for row in table.rows}
    with pytest.raises(UserError, match="the column 'colour' has 'blue', which training did not: green, red"):
        encode(table.columns, MIXED.assign(colour="blue"))
    with pytest.raises(UserError, match="there is no column 'weight': did you mean 'weights'"):
        encode(table.columns, MIXED.rename(columns={"weight": "weights"}))
    with pytest.raises(UserError, match="the column 'weight' must have numbers only"):
        encode(table.columns, MIXED.assign(weight="heavy"))


def test_a_network_of_rows_is_used_and_exported(tmp_path: Path, say: Say) -> None:
    gaps = MIXED.copy()
    gaps.loc[[3], "weight"] = np.nan
    path = write_csv(gaps, tmp_path / "a.csv")
    settings = compose_settings(words(path, "kind", "dataset.missing=mean", f"machine.outputs={tmp_path}"))
    (stage,) = lineage(settings)
    run(stage, host(settings), quiet, Signals())
    say("predict", stage.signature, "a.csv", "output=found.jsonl", "machine.outputs=.")
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    loaded = ban.load(tmp_path, stage.signature)
    expected = loaded.probabilities([*loaded.inputs.read(path)])  # pyright: ignore
    np.testing.assert_allclose([line["classes"][0]["probability"] for line in lines], expected.max(1), atol=1e-6)
    say("export", stage.signature, "folder", "machine.outputs=.")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["columns"][1]["values"] == ["green", "red"]


BAD = {
    "": "is empty",
    "a,b\n": "has no rows below its headings",
    "a\n1\n2\n": "has one column only",
    "a,a,kind\n1,2,x\n": "has 2 columns of the name 'a'",
    "a,kind\n1,x\n2,y,3\n": r"line 3 has 3 values, not 2",
    "a,b,kind\n1,2,x\n2,y\n3,4,x\n": r"line 3 has 2 values, not 3",
    "a,kind\n1,x\n2,x\n": "has one class only",
    "a,kind\n1,x\n2,x\n3,y\n": "the class y has one row only",
    "a,kind\n1,x\n2,\n3,x\n": "1 row without a class",
    "a,kind\n1,0.5\n2,1\n3,1\n": "numbers with fractions",
    "a,kind\ninf,x\n2,y\n": "has an infinite number in row 1",
    "a,class\n1,x\n2,y\n": "has no column 'kind': choose one of a, class",
    "a,kinds\n1,x\n2,y\n": "did you mean 'kinds'",
    "a,kind\n1,x\n1,y\n1,x\n1,y\n": "has no column of features",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_files_are_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=BAD[text]) as refused:
        planned(tmp_path / "a.csv", "kind")
    assert "\n" not in f"{refused.value}" and "Traceback" not in f"{refused.value}"


def test_other_bad_words_are_one_sentence(tmp_path: Path) -> None:
    path = write_csv(MIXED, tmp_path / "a.csv")
    names = write_csv(MIXED.assign(name=[f"n{k}" for k in range(40)]), tmp_path / "names.csv")
    dates = tmp_path / "dates.parquet"
    MIXED.assign(day=pd.date_range("2020-01-01", periods=40)).to_parquet(dates)
    nested = tmp_path / "nested.parquet"
    MIXED.assign(list=[[1, 2]] * 39 + [[3]]).to_parquet(nested)
    (tmp_path / "latin.csv").write_bytes("a,kind\n1,\xe9\n2,b\n".encode("latin-1"))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.xlsx").write_bytes(b"")
    cases = [
        (tmp_path / "no.csv", "kind", (), "cannot be read: No such file"),
        (tmp_path, "kind", (), "is a folder"),
        (names, "kind", (), r"column 'name' has 40 different texts .* dataset.drop=\[name\]"),
        (dates, "kind", (), "column 'day' has times"),
        (nested, "kind", (), "column 'list' has a list"),
        (tmp_path / "latin.csv", "kind", (), "is not UTF-8"),
        (tmp_path / "torn.parquet", "kind", (), "is no Parquet file, or damaged"),
        (tmp_path / "a.xlsx", "kind", (), "does not end in"),
        (path, "kind", ("dataset.drop=[nosuch]",), "has no column 'nosuch'"),
        (path, "kind", ("dataset.test_size=50",), "add up to more than the 40 rows"),
        (path, "kind", ("dataset.missing=median",), "dataset.missing"),
        (path, "null", (), "needs dataset.target: name the column of the classes; there are weight, colour"),
    ]
    for place, target, more, reason in cases:
        with pytest.raises(UserError, match=reason):
            planned(place, target, *more)
    planned(names, "kind", "dataset.drop=[name]")


def test_rows_that_occur_twice_are_told(tmp_path: Path) -> None:
    path = write_csv(pd.concat([MIXED, MIXED[:3]]), tmp_path / "a.csv")
    dataset = planned(path, "kind").dataset
    assert "3 rows are there twice" in dataset.warnings[0]
    assert [*dataset.notes] == [
        "Classes, rows: cat (22), dog (21)",
        "Columns of categories: colour (2 values), old (2 values)",
        "Constant columns, which are left out: same",
    ]


def test_real_rows_are_learned(tmp_path: Path) -> None:
    """Scikit-learn's breast cancer data, written out: the labels are learned."""
    bunch: Any = load_breast_cancer(as_frame=True)
    path = write_csv(bunch.frame.assign(target=bunch.target.map({0: "malignant", 1: "benign"})), tmp_path / "a.csv")
    settings = compose_settings(words(path, "target", "recipe.epochs=40", f"machine.outputs={tmp_path}"))
    (stage,) = lineage(settings)
    assert run(stage, host(settings), quiet, Signals())["test_error_percent"] < 10


def test_many_rows_are_read_in_seconds(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    table = pd.DataFrame(draws.normal(size=(20_000, 10)), columns=[f"x{k}" for k in range(10)])
    path = write_csv(table.assign(kind=draws.integers(0, 3, 20_000)), tmp_path / "a.csv")
    assert found(Request(str(path), "kind")).rows.shape == (20_000, 10)
