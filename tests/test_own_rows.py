"""Own rows: read from every format, encoded as described, split in proportion, and refused in one sentence."""

import csv
import io
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from helpers import Train
from pyarrow import parquet
from sklearn.datasets import load_breast_cancer, load_wine

from ban.data.labelled import proportional_order
from ban.data.rows import encode
from ban.data.tables import read
from ban.data.tabular import Tabular
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.settings.datasets import OwnRows
from ban.settings.sweeps import jobs_of
from ban.training import build

ROWS = 60
TABLE: dict[str, list[Any]] = {
    "age": [20.5 + (7 * row) % 23 for row in range(ROWS)],
    "city": [("Bern", "Genève", "St. Gallen, CH")[row % 3] for row in range(ROWS)],
    "member": [row % 4 < 2 for row in range(ROWS)],
    "income": [(row * 0.1 - 1.7) * 1e5 / 3 for row in range(ROWS)],
    "visits": [(row * row) % 17 for row in range(ROWS)],
    "kind": ["ab"[row % 5 < 2] for row in range(ROWS)],
}
"""Numbers that no decimal text of fewer digits stands for, categories, truth values, and the classes."""
FEATURES = ["age", "city", "member", "income", "visits"]


def words(path: Path, *more: str) -> list[str]:
    own = ["dataset=rows", f"dataset.path='{path}'", "dataset.target=kind", "model=mlp_16", "method=labels"]
    return [*own, "machine=single_threaded", "recipe.batch_size=8", *more]


def planned(given: Sequence[str]) -> tuple[str, Tabular]:
    """The signature of the training, and its data."""
    settings = compose_settings(given)
    stage = lineage(settings)[0]
    return stage.signature, build.data(stage, settings.machine, torch.device("cpu"))  # pyright: ignore[reportReturnType]


def data_of(given: Sequence[str]) -> Tabular:
    return planned(given)[1]


def dataset_of(path: Path, *more: str) -> OwnRows:
    found = compose_settings(words(path, *more)).dataset
    assert isinstance(found, OwnRows)
    return found


def written(
    path: Path, table: Mapping[str, Sequence[Any]], decimal: str = ".", encoding: str = "utf-8", **options: Any
) -> Path:
    """A text, as the csv module writes it."""
    file = io.StringIO()
    writer = csv.writer(file, **options)
    writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        writer.writerow([str(each).replace(".", decimal) if isinstance(each, float) else each for each in row])
    path.write_bytes(file.getvalue().encode(encoding))
    return path


def changed(**columns: Sequence[Any]) -> dict[str, list[Any]]:
    return {**TABLE, **{name: [*values] for name, values in columns.items()}}


def shuffled(table: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    order = np.random.default_rng(1).permutation(ROWS)
    return {name: [values[row] for row in order] for name, values in table.items()}


def of_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "csv": lambda folder: written(folder / "a.csv", TABLE, lineterminator="\n"),
    "shuffled": lambda folder: written(folder / "other.csv", shuffled(TABLE)),
    "tabs": lambda folder: written(folder / "a.tsv", TABLE, delimiter="\t"),
    "semicolons": lambda folder: written(folder / "b.csv", TABLE, delimiter=";"),
    "decimal commas": lambda folder: written(folder / "c.txt", TABLE, ",", delimiter=";"),
    "a byte order mark": lambda folder: written(folder / "d.csv", TABLE, encoding="utf-8-sig", lineterminator="\r\n"),
    "quotes": lambda folder: written(folder / "e.csv", TABLE, quoting=csv.QUOTE_ALL),
    "spaces": lambda folder: written(
        folder / "f.csv",
        changed(city=[f"  {city} " for city in TABLE["city"]], visits=[f" {n} " for n in TABLE["visits"]]),
    ),
    "truth values": lambda folder: written(
        folder / "g.csv", changed(member=["true" if each else "FALSE" for each in TABLE["member"]])
    ),
    "row labels": lambda folder: written(folder / "h.csv", shuffled({"": [*range(ROWS)], **TABLE})),
    "a constant": lambda folder: written(folder / "i.csv", {**TABLE, "unit": ["kg"] * ROWS, "zero": [0] * ROWS}),
    "parquet": lambda folder: of_parquet(folder / "a.parquet", **TABLE),
    "pandas' parquet": lambda folder: _by_pandas(folder / "b.parquet"),
}


def _by_pandas(path: Path) -> Path:
    table = pd.DataFrame(shuffled(TABLE), index=np.random.default_rng(2).permutation(ROWS))
    table.astype({"city": "category", "visits": "Int16"}).to_parquet(path)
    return path


def test_all_forms_of_one_table_are_one_experiment(tmp_path: Path) -> None:
    found = {}
    for form, write in FORMS.items():
        signature, data = planned(words(write(tmp_path)))
        found[form] = (signature, *(part.inputs for part in data.splits))
        assert [len(split.labels) for split in data.splits] == [48, 0, 12]
    signature, *parts = found.pop("csv")
    for form, (other, *arrays) in found.items():
        assert other == signature, form
        assert all(map(np.array_equal, parts, arrays)), form


def test_content_counts_and_names_and_places_do_not(tmp_path: Path) -> None:
    def signature(table: Mapping[str, Sequence[Any]], *more: str) -> str:
        return lineage(compose_settings(words(written(tmp_path / f"{time.monotonic_ns()}.csv", table), *more)))[
            0
        ].signature

    first = signature(TABLE)
    renamed = {f"the {name}" if name in FEATURES else name: values for name, values in TABLE.items()}
    assert signature(renamed) == first
    assert signature({**TABLE, "note": ["x", "y"] * 30}, "dataset.drop=[note]") == first
    assert signature(changed(visits=[*TABLE["visits"][:-1], 99])) != first
    assert signature(changed(kind=["a", *TABLE["kind"][1:]])) != first
    assert signature(TABLE, "dataset.drop=[age]") != first
    assert signature(TABLE, "dataset.split_seed=1") != first


def test_rows_are_encoded_as_their_description_says(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", TABLE)
    columns = dataset_of(path).columns
    assert [column["name"] for column in columns] == FEATURES
    assert {**columns[1]} == {"name": "city", "kind": "category", "values": ["Bern", "Genève", "St. Gallen, CH"]}
    assert {**columns[2]} == {"name": "member", "kind": "category", "values": ["False", "True"]}
    expected = np.column_stack(
        [
            TABLE["age"],
            *(np.array(TABLE["city"]) == city for city in ("Bern", "Genève", "St. Gallen, CH")),
            *(np.array(TABLE["member"]) == value for value in (False, True)),
            *(TABLE["income"], TABLE["visits"]),
        ]
    )
    assert np.array_equal(encode(columns, read(path)), expected)
    few = {name: TABLE[name][:2] for name in reversed(FEATURES)}  # another order, no target, fewer categories
    assert np.array_equal(encode(columns, read(written(tmp_path / "new.csv", few))), expected[:2])
    assert np.array_equal(encode(columns, pd.DataFrame(few)), expected[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"city": ["Bern", "Chur"]},
            "the column city has an unknown category in row 2, 'Chur': the known ones are Bern, G",
        ),
        ({"age": [1, "old"]}, "the column age must have numbers, but row 2 has 'old'"),
        ({"age": [1, ""]}, "the column age has no value in row 2: fill the gap"),
        ({"city": ["", "Bern"]}, "the column city has no value in row 1: fill the gap"),
        ({"age": ["inf", 1]}, "the column age has an infinite value in row 1"),
    ],
)
def test_values_that_a_description_has_no_place_for_are_named(
    change: Mapping[str, list[Any]], message: str, tmp_path: Path
) -> None:
    columns = dataset_of(written(tmp_path / "own.csv", TABLE)).columns
    new = {name: TABLE[name][:2] for name in FEATURES} | change
    with pytest.raises(UserError, match=message):
        encode(columns, read(written(tmp_path / "new.csv", new)))
    with pytest.raises(UserError, match=r"there is no column age: did you mean 'Age'\?"):
        encode(columns, pd.DataFrame(new).rename(columns={"age": "Age"}))


GAPS = changed(
    age=["NA" if row % 7 == 3 else value for row, value in enumerate(TABLE["age"])],
    city=["" if row % 10 == 1 else value for row, value in enumerate(TABLE["city"])],
)


def test_gaps_are_filled_by_the_means_of_the_training_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", GAPS)
    dataset, data = dataset_of(path, "dataset.missing=mean"), data_of(words(path, "dataset.missing=mean"))
    age, city = dataset.columns[:2]
    assert dict(dataset.gaps) == {"age": 9, "city": 6}
    rows = encode(dataset.columns, read(path))
    assert (rows[np.array(GAPS["city"]) == "", 1:4] == 0).all() and city["may_be_missing"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    mean = age["mean"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert (rows[np.array(GAPS["age"]) == "NA", 0] == mean).all()
    ages, scaled = [part.inputs[:, 0] for part in data.splits], np.float32((mean - 20.5) / 22)
    assert sum((part == scaled).sum() for part in ages) == 9
    assert ages[0].mean() == pytest.approx(scaled)  # filling with a mean keeps the mean
    assert dataset_of(path, "dataset.missing=mean", "dataset.split_seed=1").columns[0] != age
    assert dataset_of(path, "dataset.missing=mean", "dataset.split_seed=1").checksum == dataset.checksum


def test_each_seed_of_a_sweep_has_the_means_of_its_own_split(tmp_path: Path) -> None:
    given = words(written(tmp_path / "own.csv", GAPS), "dataset.missing=mean", "dataset.split_seed=${seed}")
    jobs = jobs_of([*given, "seed=0,1"])
    assert [job.dataset for job in jobs] == [compose_settings([*given, f"seed={seed}"]).dataset for seed in (0, 1)]
    assert jobs[0].dataset.columns != jobs[1].dataset.columns  # pyright: ignore[reportAttributeAccessIssue]


def test_splits_have_the_classes_in_proportion(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [600, 60, 7])
    for seed in range(5):
        order = proportional_order(labels, seed)
        assert sorted(order) == [*range(667)]
        for part in (order[:533], order[533:], order[100:300]):
            expected = len(part) * np.bincount(labels) / 667
            assert np.abs(np.bincount(labels[part], minlength=3) - expected).max() <= 1.5
    data = data_of(words(written(tmp_path / "own.csv", TABLE), "dataset.validation_size=10"))
    assert [np.bincount(split.labels).tolist() for split in data.splits] == [[23, 15], [6, 4], [7, 5]]


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_bundled_rows_in_a_file_are_learned(load: Callable[..., Any], tmp_path: Path, train: Train) -> None:
    bunch = load(as_frame=True)
    bunch.frame.assign(kind=bunch.target_names[bunch.target]).drop(columns="target").to_csv(tmp_path / "own.csv")
    given = words(tmp_path / "own.csv", "recipe.epochs=12", "recipe.batch_size=32")
    dataset = compose_settings(given).dataset
    assert dataset.train_size + dataset.test_size == len(bunch.target)
    result = train(*given)[-1]
    assert result["test_error_percent"] < 9


def test_a_table_with_categories_and_gaps_teaches_a_student(tmp_path: Path, train: Train) -> None:
    own = words(
        Path(__file__).parent / "rows.csv", "dataset.target=variety", "dataset.missing=mean", "recipe.epochs=40"
    )
    teacher, student = train(*own, "method=ban")
    assert teacher["test_error_percent"] < 30 and student["test_error_percent"] < 30


# Plans


def test_a_plan_tells_what_was_found(tmp_path: Path) -> None:
    table = {
        **GAPS,
        "one": [1] * ROWS,
        "number": [*range(5, 5 + ROWS)],
        "level": [f"{r % 5}" for r in range(58)] + ["x"] * 2,
    }
    table = {name: [*values, *values[:8]] for name, values in table.items()}
    table["number"] = [*range(5, 13), *range(13, 73)]
    path = written(tmp_path / "own.csv", table)
    dataset = dataset_of(path, "dataset.missing=mean")
    assert dataset.notes == [
        "Classes, rows: a (40), b (28)",
        "Categories, values: city (3), member (2), level (6)",
        "Columns that are left out: one (constant)",
        "Gaps that are filled, rows: age (10), city (7)",
    ]
    numbered, mixed = dataset.warnings
    assert numbered == "the column number seems to have row numbers: set dataset.drop=[number] if they mean nothing."
    assert mixed.startswith("the column level is read as categories, because it has 'x' among its numbers: correct it")
    copied = dataset_of(path, "dataset.missing=mean", "dataset.drop=[number]")
    assert copied.duplicates > 0 and "among those that are trained on: remove copies" in copied.warnings[-1]


def test_texts_that_look_like_references_are_texts(tmp_path: Path) -> None:
    odd = ["${oc.env:HOME}", "???", "a\nb"]
    path = written(tmp_path / "own.csv", {**TABLE, "odd": [odd[row % 3] for row in range(ROWS)], "${x}": TABLE["age"]})
    dataset = dataset_of(path)
    assert dataset.columns[-2]["values"] == ["${oc.env:HOME}", "???", "a b"]  # pyright: ignore
    assert len(data_of(words(path)).splits.train.labels) == 48


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", TABLE)
    settings = compose_settings(words(path))
    written(path, changed(visits=[0, *TABLE["visits"][1:-1], 5]))
    with pytest.raises(UserError, match=r"own\.csv has changed since the command started: start it again"):
        build.data(lineage(settings)[0], settings.machine, torch.device("cpu"))


# Bad input


def text(content: str | bytes, *more: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "own.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return words(folder / "own.csv", *more)

    return make


def table(*more: str, **columns: Sequence[Any]) -> Callable[[Path], list[str]]:
    return lambda folder: words(written(folder / "own.csv", changed(**columns)), *more)


def arrow(**columns: Any) -> Callable[[Path], list[str]]:
    return lambda folder: words(of_parquet(folder / "own.parquet", **{**TABLE, **columns}))


def pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "own.csv")
    return words(folder / "own.csv")


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no path": (
        lambda _: words(Path("x"))[:1] + words(Path("x"))[2:],
        "dataset=rows needs dataset.path: name a CSV, TSV",
    ),
    "no such file": (
        lambda path: words(path / "nosuch.csv"),
        "nosuch.csv does not exist: name a CSV, TSV or Parquet file",
    ),
    "a name that is too long": (lambda path: words(path / ("x" * 256)), "x cannot be read: File name too long"),
    "a pipe": (pipe, "own.csv is no regular file: name a CSV"),
    "a folder": (words, "is a folder: name a CSV, TSV or Parquet file"),
    "no target": (
        table("dataset.target=null"),
        "needs dataset.target: name the column of the classes, one of age, city",
    ),
    "no such target": (table("dataset.target=kinds"), "dataset.target=kinds is no column of .*: did you mean 'kind'?"),
    "a target that is dropped": (table("dataset.drop=[kind]"), "dataset.drop names kind, which is dataset.target"),
    "no such column": (table("dataset.drop=[agee]"), "dataset.drop names agee, .*: did you mean 'age'?"),
    "an empty file": (text(""), "own.csv is empty"),
    "blank lines": (text("\n \n"), "own.csv is empty"),
    "a header alone": (text("a,b,kind\n"), "own.csv has a header, but no rows"),
    "no header": (text("1,2,3\n4,5,6\n"), "begins with numbers: the first line must name the columns"),
    "the target alone": (text("kind\na\nb\na\nb\n"), "has no columns beside kind"),
    "a short line": (
        text('a,kind\n"1\n2",x\n1,y\n3\n'),
        "own.csv, line 5, has 1 value, but there are 2 columns: correct",
    ),
    "a long line": (text("a,kind\n1,x,\n2,y,\n"), "own.csv, line 2, has 3 values, but there are 2 columns"),
    "a quote that is open": (text('a,kind\n1,x\n"2,y\n3,x\n'), "own.csv, line 4, has 1 value, but there are 2 columns"),
    "two columns of a name": (text("a,a,kind\n1,2,x\n"), "own.csv has several columns a: give each a name of its own"),
    "another encoding": (text("a,kind\n1,Genève\n".encode("latin-1")), r"is no text in UTF-8 \(byte 0xe8 in line 2\)"),
    "UTF-16": (text("a,kind\n1,x\n".encode("utf-16")), r"is no text in UTF-8 \(byte 0xff in line 1\)"),
    "control characters": (table(city=["a\x07", "b"] * 30), "the column city has a text with control characters"),
    "zeros": (text("a,kind\n1\0,x\n2,y\n3,x\n4,y\n"), "own.csv, line 2, has a zero byte: it is damaged"),
    "one class": (table(kind=["a"] * ROWS), "all rows have one class, a: rows of two classes or more are needed"),
    "a class with one row": (
        table(kind=[*TABLE["kind"][:-1], "c"]),
        "one row only has the class c, but one to train on",
    ),
    "a row without a class": (
        table(kind=["", *TABLE["kind"][1:]]),
        "own.csv has no kind, the target, in 1 row: fill it, or remove",
    ),
    "a target of fractions": (
        table(kind=[row / 4 for row in range(ROWS)]),
        "has numbers such as 0.25, which are no cl",
    ),
    "a target of names": (
        lambda path: words(
            written(path / "own.csv", {"a": [*range(2002)], "kind": [f"n{r // 2}" for r in range(2002)]})
        ),
        "the target kind has 1,001 different values, more than the 1,000 classes that can be learned",
    ),
    "gaps": (
        table(age=GAPS["age"], city=GAPS["city"]),
        r"missing values in age \(9\), city \(6\): fill them, set dataset.mi",
    ),
    "an infinite value": (
        table(age=[*TABLE["age"][:-1], "-inf"]),
        "the column age has an infinite value in row 60: cor",
    ),
    "no values": (table("dataset.missing=mean", age=[""] * ROWS), r"has no values in age: set dataset.drop=\[age\]"),
    "texts without a name": (
        lambda path: words(written(path / "own.csv", {**TABLE, "": ["u", "v"] * 30})),
        r"has columns without a name: name them, or set dataset.drop=\['\(column 7\)'\]",
    ),
    "names of people": (
        table("dataset.drop=[city]", age=[f"Ann {row}" for row in range(ROWS)]),
        r"too many texts in age \(60 different texts in 60 rows, such as 'Ann 0'\): set dataset.drop=\[city,age\]",
    ),
    "a number that is none": (
        table(age=["1,000", *(row / 7 for row in range(ROWS - 1))]),
        r"too many texts in age \(60 different texts in 60 rows, such as '1,000'\).* correct the texts that should",
    ),
    "dates": (
        table(age=[date(2024, 1, 1 + row % 9) for row in range(ROWS)]),
        "has dates in age, which are neither numb",
    ),
    "times in Parquet": (
        arrow(age=pd.date_range("2024", periods=ROWS)),
        "the column age has dates or times, which are",
    ),
    "lists in Parquet": (
        arrow(age=[[1, 2]] * ROWS),
        "the column age has values of the type list<.*, which are neither",
    ),
    "a text called Parquet": (
        lambda path: words(written(path / "own.parquet", TABLE)),
        "own.parquet is damaged, or no Parquet",
    ),
    "constants alone": (text("a,b,kind\n1,u,x\n1,u,y\n1,u,x\n1,u,y\n"), "has no column with different values, so that"),
    "more test rows than there are": (table("dataset.test_size=61"), "dataset.test_size=61, but there are 59 rows for"),
    "more rows than there are": (
        table("dataset.train_size=49"),
        "dataset.train_size=49, but there are 48 rows for that",
    ),
    "classes that are set": (table("dataset.classes=3"), "dataset.classes follows from .*own.csv: leave it out"),
    "another way to fill": (table("dataset.missing=median"), "dataset.missing is median; it must be mean"),
    "a text in place of a list": (table("dataset.drop=age"), "dataset.drop is age; it must be a list"),
    "a network for images": (table("model=small_conv"), "does not read tabular data.* choose model=mlp_256"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    given = make(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        compose_settings(given)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 400


@pytest.mark.parametrize("name", ["", "a, b", "it's", "first name"])
def test_the_advice_to_leave_columns_out_works(name: str, tmp_path: Path) -> None:
    given = words(written(tmp_path / "own.csv", {**TABLE, name: [f"Ann {row}" for row in range(ROWS)]}))
    with pytest.raises(UserError) as raised:
        compose_settings(given)
    advice = re.search(r"set (dataset\.drop=\[.*\])", str(raised.value))
    assert advice
    assert [column["name"] for column in dataset_of(tmp_path / "own.csv", advice[1]).columns] == FEATURES


def test_parquet_without_pyarrow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_parquet(tmp_path / "own.parquet", **TABLE)
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"Parquet files need pyarrow: pip install 'born-again\[parquet\]'"):
        compose_settings(words(path))
