"""Tables against what is in the store."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from helpers import Say, Train, cifar100, flip_a_bit, plan, publish, publish_predictions
from pydantic import TypeAdapter

from ban import metrics
from ban.commands.table import planned_jobs
from ban.display import console, show_facts, show_table
from ban.errors import UserError
from ban.plan.contrast import describe, differences, line_of, names_of
from ban.plan.lineage import lineage, union
from ban.plan.stage import Stage
from ban.report.markup import Section, latex, markdown
from ban.report.paper import paper_numbers
from ban.report.results import Results
from ban.report.tables import Row, compare, everything
from ban.report.verdicts import notes
from ban.settings.compose import CONF, compose_settings
from ban.settings.schema import Cell, Comparison, TableLayout
from ban.store.result import Result
from ban.store.store import Store


def test_the_papers_numbers() -> None:
    assert paper_numbers(2)["densenet_80_80"]["DKPP", "test"] == 16.84
    assert paper_numbers(1)["wrn_28_10"] == {("Teacher", "test"): 3.77, ("BAN", "test"): 3.86}
    assert paper_numbers(6)["lstm"]["BAN+L", "validation"] == 71.19
    assert ("BAN-3", "test") not in paper_numbers(2)["densenet_80_120"]


def test_an_ensemble_averages_probabilities() -> None:
    targets = np.array([1])
    members = [{"log_probabilities": np.log([row]), "targets": targets} for row in ([0.6, 0.4], [0.1, 0.9])]
    np.testing.assert_allclose(np.exp(metrics.ensemble(members)["log_probabilities"]), [[0.35, 0.65]])
    with pytest.raises(ValueError, match="different examples"):
        metrics.ensemble([members[0], members[1] | {"targets": np.array([0])}])


def test_an_ensemble_of_language_models_averages_the_words_probabilities() -> None:
    targets = np.array([5, 7])
    members = [{"log_probabilities": np.log(row), "targets": targets} for row in ([0.5, 0.1], [0.3, 0.7])]
    assert metrics.measure(metrics.ensemble(members))["perplexity"] == pytest.approx((0.4 * 0.4) ** -0.5)
    assert metrics.measure(members[0])["perplexity"] == pytest.approx(0.05**-0.5)


def found(store: Store, *lineages: list[Stage], layout: TableLayout | None = None) -> dict[str, Row]:
    (table,) = compare(union(lineages), Results(store), layout)
    return {row.heading: row for row in table.rows}


def test_verdicts_stand_in_a_fixed_order_and_one_pair_gives_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    errors = {"ban": [40, 39, 40, 41], "ban_l": [60, 61, 60, 59], "cwtm": [40, 60, 45, 55], "dkpp": [55]}
    lineages = {(method, seed): plan(f"method={method}", f"seed={seed}") for method in errors for seed in range(4)}
    for seed in range(4):
        publish(store, lineages["ban", seed][0], test_error_percent=50)
    for method, values in errors.items():
        for seed, error in enumerate(values):
            publish(store, lineages[method, seed][1], test_error_percent=error)
    cell, control = ([Cell(method=method, generation=1)] for method in ("dkpp", "ban"))
    layout = TableLayout(compare=[Comparison(cell=cell, control=control)])
    verdicts, compared = notes(compare(union(lineages.values()), Results(store), layout))[0]
    assert verdicts.endswith(
        "better than the teacher: BAN-1; worse than the teacher: BAN+L-1; not resolved: CWTM-1; one pair only: DKPP-1."
    )
    assert compared == "DKPP-1 against BAN-1: +15.00 points, one pair only."


def test_a_student_is_paired_with_the_teacher_it_descends_from(tmp_path: Path) -> None:
    """Two teachers of one seed whose splits differ, and a student of each that is one image in ten better."""
    store = Store(tmp_path)
    lineages = [plan("seed=5"), plan("seed=0", "teacher.seed=5")]
    for number, (teacher, student) in enumerate(lineages):
        publish_predictions(store, teacher, 3 + 5 * number)
        publish_predictions(store, student, 2 + 5 * number)
    gain = found(store, *lineages)["BAN-1"].gain
    assert gain is not None and (gain.mean, gain.count) == (-10.0, 2)


def test_a_student_of_another_network_is_compared_with_its_own_on_the_labels(tmp_path: Path) -> None:
    """Its teacher errs in 10 %, the students in 20 and 30 %, their own network without a teacher in 40 %."""
    store, lineages = Store(tmp_path), [plan("model@teacher.model=wrn_10_1", f"seed={seed}") for seed in range(2)]
    for seed, (teacher, student) in enumerate(lineages):
        publish_predictions(store, teacher, 1)
        publish_predictions(store, student, 2 + seed)
        publish_predictions(store, plan("method=labels", f"seed={seed}")[0], 4)
    tables = compare([stage for line in lineages for stage in line], Results(store))
    (table,) = [each for each in tables if each.network == "Small-Conv"]
    (compared,) = table.compared
    assert (compared.ours, compared.difference.mean, compared.difference.count) == (
        "BAN-1 (taught by Wide-ResNet-10-1)",
        -15.0,
        2,
    )
    ((_, note),) = notes([table])
    assert note.startswith("BAN-1 (taught by Wide-ResNet-10-1) against the same network trained on the labels: -15.00")


def test_students_of_one_teacher_are_said_to_be(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lineages = [plan(f"seed={seed}", "teacher.seed=9", "dataset.split_seed=0") for seed in range(3)]
    publish_predictions(store, lineages[0][0], 3)
    for _, student in lineages:
        publish_predictions(store, student, 2)
    row = found(store, *lineages)["BAN-1"]
    assert (row.measured["test"].count, row.measured["test"].clusters, row.teachers) == (3, 1, 1)


def test_settings_under_one_label_are_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    light, heavy = (plan("method=ban_l", f"method.terms.label.weight={weight}") for weight in (0.5, 1))
    for error, stage in zip((5, 3, 4), (light[0], light[1], heavy[1]), strict=True):
        publish_predictions(store, stage, error)
    errors = {name: row.measured["test"].mean for name, row in found(store, light, heavy).items() if row.measured}
    assert errors == {
        "Teacher": 50.0,
        "BAN+L-1 (label weight 0.5)": 30.0,
        "BAN+L-1 (label weight 1)": 40.0,
    }


def test_what_differs_is_named_in_captions_rows_log_lines_and_columns(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    rates = [plan("method=labels", f"recipe.optimizer.lr={rate}")[0] for rate in (0.05, 0.1)]
    teachers = [plan("method=dkpp", "teacher=wrn_10_1", f"teacher.model.width={width}") for width in (1, 2)]
    widths = [plan("method=labels", f"model.width={width}")[0] for width in (8, 16)]
    flips = plan("method=labels", "dataset.augmentation.flip=true", "recipe.schedule._target_=ban.schedules.Constant")
    stages = union([rates, *teachers, widths, flips])
    for stage in stages:
        publish(store, stage, test_error_percent=20.0)
    say("table")
    markdown = (tmp_path / "outputs" / "tables" / "all.md").read_text()
    for words in ("fp32, flip false, lr 0.05, schedule Cosine.", "lr 0.1, schedule Constant", "Small-Conv, width 16"):
        assert words in markdown, words
    assert "(taught by Wide-ResNet-10-1, teacher's width 1)" in markdown
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "all.csv")
    columns = ["recipe.optimizer.lr", "model.width", "dataset.augmentation.flip", "teacher.model.width"]
    assert len(frame) == len(frame[[*columns, "cell"]].drop_duplicates())
    names = names_of(stages)
    assert len({*names.values()}) == len(stages)
    assert names[rates[0].signature].startswith("Teacher, Small-Conv, seed 0, flip false, lr 0.05")
    same = [plan(f"teacher.seed={seed}")[1] for seed in (0, 1)]
    assert [*names_of(same).values()] == ["BAN-1, Small-Conv, seed 0", "BAN-1, Small-Conv, seed 0, teacher's seed 1"]
    listed = say("stages")
    assert "differs in" in listed and "lr 0.05" in listed


@pytest.mark.parametrize(
    ("overrides", "name", "shown"),
    [
        (("method=labels", "recipe.precision=bf16"), "bf16", "precision bf16"),
        (("method=mean_teacher", "recipe=smoke_images", "recipe.batch_size=32"), "AverageWeights", "AverageWeights"),
    ],
)
def test_a_component_of_another_version_is_said_to_be(overrides: Sequence[str], name: str, shown: str) -> None:
    """Not by the number of its version, which nobody knows; and without need, nothing is said."""
    (now,) = line_of(plan(*overrides)[-1])
    before, other = {**now, "versions": {}}, line_of(plan("method=labels")[0])[0]
    (ours, theirs) = map(describe, differences([[now], [before]]))
    assert theirs.endswith(f"{name} of another version of ban") and ours in theirs and shown in ours
    assert "version" not in " ".join(map(describe, differences([[now], [other]])))


def test_long_settings_that_differ_at_their_end_are_told_apart(say: Say, tmp_path: Path) -> None:
    schedule = "recipe.schedule={_target_: ban.schedules.Steps, factor: 0.5, milestones: [%s]}"
    lists = [", ".join(map(str, [*range(10, 100, 10), last])) for last in (110, 120)]
    stages = [plan("method=labels", schedule % milestones)[0] for milestones in lists]
    assert len({*names_of(stages).values()}) == 2
    for stage in stages:
        publish(Store(tmp_path / "outputs"), stage, test_error_percent=20.0)
    say("table")
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "all.csv")
    assert sorted(frame["recipe.schedule.milestones"]) == [f"[{milestones}]" for milestones in lists]


@pytest.mark.parametrize("width", [20, 40, 80, 140])
def test_no_number_is_cut_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(console, "width", width)
    cells = ["12.92 ± 10.65 (8 students, 2 teachers) [16.87 ± 1.24] ✓", "-0.50 ± 123.45", "1234567.89"]
    rows = [{"": "another label-trained network", **{f"heading {n}": cell for n, cell in enumerate(cells)}}] * 3
    show_table(rows, "A title", "A caption")
    shown = capsys.readouterr().out
    for number in re.findall(r"[-\d.]*\d", " ".join(cells)):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", shown), number


NUMBERS = ("89.81 %", "-0.50 ± 0.25 %", "(4.4 MB)", "12.92 ± 1.65", "1e-05 s", "1,442 parameters", "0:12:03")
WORDS = ("test error", "Wide-ResNet-16-1", "another", "of", "3f8d", "/data/outputs,")


@pytest.mark.parametrize("kind", ["table", "facts"])
def test_a_number_and_its_unit_stay_on_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Random(0)
    for width in range(20, 121):
        monkeypatch.setattr(console, "width", width)
        cells = [draw.choices(NUMBERS + WORDS, k=draw.randint(1, 6)) for _ in range(6)]
        first, *rest = texts = [" ".join(cell) for cell in cells]
        with console.capture() as shown:
            if kind == "table":
                show_table([{"": first, "a": rest[0], "b": rest[1]}, {"": rest[2], "a": rest[3], "b": rest[4]}])
            else:
                show_facts([(f"name {index}", text) for index, text in enumerate(texts)])
        lines = shown.get().splitlines()
        for number in NUMBERS:
            expected = sum(cell.count(number) for cell in cells)
            assert sum(line.count(number) for line in lines) == expected, (width, number, lines)
        assert max(map(len, lines)) <= max(width, 24)


TEXTS = {
    "a|b": (r"a\|b", r"a\textbar{}b"),
    "Ens*2, Ens*3": (r"Ens\*2, Ens\*3", "Ens*2, Ens*3"),
    "_x_ small_conv": (r"\_x\_ small_conv", r"\_x\_ small\_conv"),
    "50 % & <b> `c` ~~d~~": (
        r"50 % & \<b> \`c\` \~\~d\~\~",
        r"50 \% \& $<$b$>$ `c` \textasciitilde{}\textasciitilde{}d",
    ),
    "# heading": (r"\# heading", r"\# heading"),
    "[a](b) ±✓ Π": (r"[a]\(b) ±✓ Π", r"[a](b) $\pm$\checkmark{} $\Pi$"),
    "two\nlines": ("two lines", "two lines"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_escaped_in_captions_headings_cells_and_notes(text: str) -> None:
    section = Section(text, [{text: text}], [text])
    plain, tex = TEXTS[text]
    caption, heading, _, cell, note = [line for line in markdown([section]).splitlines() if line]
    assert caption == note == plain
    assert heading.strip("| ") == cell.strip("| ") == plain
    comment, _, table = latex([section]).partition(r"\toprule")
    assert table.count(tex) == 2 and all(line.startswith(("%", r"\begin")) for line in comment.splitlines())


def test_a_bad_stage_is_named_and_the_others_are_shown(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    lineages = [plan("generations=2", f"seed={seed}") for seed in range(3)]
    for line in lineages:
        for stage in line:
            publish_predictions(store, stage, 3)
    broken, unreadable = lineages[0][2].signature, lineages[1][2].signature
    flip_a_bit(store.folder(broken) / "result.json")
    flip_a_bit(store.folder(unreadable) / "predictions.safetensors")
    for words in (("table",), ("table", "methods"), ("table", "diagnostics")):
        shown = say(*words)
        assert re.search(f"Left out of the table: .*{broken}/result.json is damaged", shown)
        assert "Teacher" in shown or words[1:]
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "all.csv").set_index("cell")
    assert frame["n"].to_dict() == {"Teacher": 3, "BAN-1": 3, "BAN-2": 2, "Ens*2": 1}
    assert frame["difference_n"].to_dict() == {"Teacher": 0, "BAN-1": 3, "BAN-2": 2, "Ens*2": 1}


def test_a_title_shows_one_network_of_a_cohort(train: Train, tmp_path: Path) -> None:
    train("method=deep_mutual_learning", "recipe.epochs=1")
    (table,) = everything(Results(Store(tmp_path)))
    assert table.parameters == 1442


def test_networks_of_one_name_have_tables_of_their_own(tmp_path: Path) -> None:
    lineages = [plan(f"model.width={width}") for width in (8, 16)]
    assert len(compare(union(lineages), Results(Store(tmp_path)))) == 2


def test_a_teacher_that_is_gone_is_missing_and_no_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, first, second = plan("generations=2")
    publish_predictions(store, first, 3)
    publish_predictions(store, second, 2)
    (table,) = everything(Results(store))
    assert [row.heading for row in table.rows] == ["BAN-1", "BAN-2"]


def test_table_6_shows_both_splits_of_the_best_epochs_network(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    for seed in range(3):
        stages = cifar100("model=lstm", "dataset=ptb", "method=ban_l", f"seed={seed}")
        for stage, perplexity in zip(stages, (70.0, 68.0), strict=True):
            publish(store, stage, validation_perplexity=perplexity + 3, test_perplexity=perplexity + seed)
    shown = say("table", "6")
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "table6.csv").set_index(["network", "column"])
    assert len(frame) == 8 and "perplexity" in shown
    lstm = frame.loc["LSTM"]
    assert lstm["paper"].to_dict() == {
        "Teacher Val": 75.11,
        "BAN+L Val": 71.19,
        "Teacher Test": 71.87,
        "BAN+L Test": 68.56,
    }
    assert lstm.loc["BAN+L Test", ["test_perplexity", "difference"]].tolist() == [69.0, -2.0]
    markdown = (tmp_path / "outputs" / "tables" / "table6.md").read_text()
    assert "71.00 ± 2.48 (3) [71.87] |" in markdown and "arithmetic" in markdown  # not the paper's networks: no mark


def test_table_2_holds_every_cell_of_the_paper_and_ours(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    for seed in range(3):
        lineages = [
            cifar100("model=densenet_80_120", f"seed={seed}", "generations=3"),
            cifar100("model=densenet_80_120", f"seed={seed}", "replica=1"),
            cifar100("model=densenet_80_120", f"seed={seed}", "method=cwtm"),
        ]
        for number, stage in enumerate({s.signature: s for line in lineages for s in line}.values()):
            publish_predictions(store, stage, number + seed)
    publish_predictions(
        store, cifar100("model=densenet_80_80", "scale=budget", "seed=9")[0], 9
    )  # another regime: not mixed in
    shown = say("table", "2")
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "table2.csv").set_index(["network", "cell"])
    ours = frame.loc["DenseNet-80-120"]
    assert len(frame) == 41
    assert ours.loc["Teacher", ["test_error_percent", "n", "paper"]].tolist() == [10.0, 3, 16.87]
    assert ours.loc["BAN", "test_error_percent"] == 50.0 and ours.loc["BAN-1", "test_error_percent"] == 20.0
    assert ours.loc["BAN-1", "difference"] == 10.0
    # Wrong with little confidence, so one member that is right outvotes it: an ensemble is as good as its best.
    assert ours.loc["Ens*3", "test_error_percent"] == 10.0  # teacher, BAN-1, BAN-2 here
    assert ours.loc["Ens*3 with BAN-3", "test_error_percent"] == 20.0
    assert ours.loc["BAN+L", "n"] == 0 and "missing" in shown
    assert frame.loc["DenseNet-80-80", "n"].sum() == 0
    markdown = (tmp_path / "outputs" / "tables" / "table2.md").read_text()
    for word in ("| network", "10.00 ± 24.84 (3) [16.87 ± 49.68] ✓", "missing [16.36]", "200 epochs"):
        assert word in markdown
    assert r"\begin{tabular}" in (tmp_path / "outputs" / "tables" / "table2.tex").read_text()


@pytest.mark.parametrize("override", ["scale=budget", "model.dropout=0.1", "++method.terms.teacher.temperature=4"])
def test_only_the_papers_own_experiment_is_judged(say: Say, override: str, tmp_path: Path) -> None:
    for seed in range(3):
        publish_predictions(Store(tmp_path / "outputs"), cifar100("model=wrn_28_1", f"seed={seed}", override)[1], seed)
    shown = say("table", "3", override)
    assert "20.00" in shown or "10.00" in shown
    assert "✓" not in shown and "✗" not in shown and "not comparable" in shown


@pytest.mark.parametrize(
    ("number", "marked", "unmarked"),
    [
        ("4", {"Teacher", "0.5*Depth"}, {"1.5*Compr"}),  # the compressed students have another size than the paper's
        ("5", {"Baseline"}, set[str]()),
    ],
)
def test_only_networks_that_are_the_papers_are_judged(
    say: Say, number: str, marked: set[str], unmarked: set[str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "outputs")
    models = ("depth_half", "compression_15")
    for seed in range(3):
        lineages = [cifar100(f"model=densenet_90_60_{m}", "teacher=densenet_90_60", f"seed={seed}") for m in models]
        lineages += [
            cifar100(f"model={m}", "method=labels", f"seed={seed}") for m in ("ban_wrn_1_1", "ban_pre_resnet_14_1")
        ]
        for stage in union(lineages):
            publish(store, stage, test_error_percent=20.0 + seed / 10)
    shown = say("table", number)
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / f"table{number}.csv")
    stored = frame[frame["n"] > 0]
    assert {*stored[stored["inside"].notna()]["cell"]} == marked
    assert {*stored["cell"]} == marked | unmarked
    rows = {"4": 0, "5": 1}[number]  # of table 5, only one of the two networks
    assert len(stored[stored["inside"].isna()]) == len(unmarked) + rows and "No mark" in shown
    assert "three runs with a standard deviation of 0.25 give ± 1.2" in shown
    assert stored["prediction_half_width"].dropna().round(4).tolist() == [0.4968] * len(marked)


def test_a_shortened_regime_is_never_judged_by_the_paper(say: Say, tmp_path: Path) -> None:
    for seed in range(3):
        publish_predictions(
            Store(tmp_path / "outputs"), cifar100("model=wrn_28_1", f"seed={seed}", "scale=budget")[0], seed
        )
    shown = say("table", "3", "scale=budget")
    assert "✓" not in shown and "✗" not in shown and "not comparable" in shown
    assert "2500 training" in shown


EXPERIMENTS = sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - {"benchmark"})  # has no cells


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_cell_of_an_experiment_is_planned_by_its_sweep(experiment: str, tmp_path: Path) -> None:
    jobs = planned_jobs(experiment, [])
    layout = jobs[0].table or TableLayout()
    tables = compare(union(lineage(job) for job in jobs), Results(Store(tmp_path)), layout)
    shown = [table for table in tables if table.model in (layout.rows or [table.model])]
    unplanned = {(table.model, row.heading) for table in shown for row in table.rows if not row.families}
    assert unplanned == ({("pre_resnet_1001", "BAN")} if experiment == "table5" else set())
    if layout.number:
        assert {table.model for table in shown} == {*paper_numbers(layout.number)}
        assert not layout.rows or [*layout.rows] == [*paper_numbers(layout.number)]
        columns = {(heading, split) for heading in layout.cells for split in layout.splits}
        assert {column for row in paper_numbers(layout.number).values() for column in row} == columns


def test_a_column_may_be_another_networks_student(say: Say, tmp_path: Path) -> None:
    """Table 3: a DenseNet beside the Wide-ResNet that taught it."""
    store = Store(tmp_path / "outputs")
    for depth, (wide, dense) in enumerate({"1": (4, 2), "2": (5, 3)}.values(), start=1):
        teacher, student = cifar100("model=densenet_90_60", f"teacher=wrn_28_{depth}")
        publish_predictions(store, teacher, wide)
        publish_predictions(store, student, dense)
    say("table", "3")
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "table3.csv").set_index(["network", "column"])
    assert frame["test_error_percent"].dropna().to_dict() == {
        ("Wide-ResNet-28-1", "Teacher"): 40.0,
        ("Wide-ResNet-28-1", "Dense-90-60"): 20.0,
        ("Wide-ResNet-28-2", "Teacher"): 50.0,
        ("Wide-ResNet-28-2", "Dense-90-60"): 30.0,
    }
    assert frame["difference"].dropna().tolist() == [-20.0, -20.0]
    assert frame["paper"].dropna().size == 12


def test_a_paper_table_without_any_of_its_rows_is_refused(say: Say) -> None:
    with pytest.raises(SystemExit, match="table 3 has rows for wrn_28_1, wrn_28_2, wrn_28_5, wrn_28_10 only"):
        say("table", "3", "model=wrn_16_1", "teacher=wrn_16_2")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("{cels: {BAN-1: {method: ban}}}", "there is no setting 'table.cels': did you mean 'table.cells'?"),
        (
            "{cells: {BAN-1: {methd: ban}}}",
            "there is no setting 'table.cells.BAN-1.0.methd': did you mean 'table.cells.BAN-1.0.method'?",
        ),
        ("{cells: {BAN-1: BAN-1}}", "table.cells.BAN-1.0 is BAN-1, but it must be a mapping of settings."),
        ("{cells: {BAN-1: []}}", "table.cells.BAN-1 is []; it must have 1 or more entries."),
        ("{cells: {X: {method: ban, generation: [1, -1]}}}", "table.cells.X.1.generation is -1; it must be greater"),
        ("{compare: [{cell: {method: ban}, controls: {}}]}", "did you mean 'table.compare.0.control'?"),
        ("{exceptions: {wrn_28_1: {BAN: {method: ban, replicas: 1}}}}", "'table.exceptions.wrn_28_1.BAN.0.replica'?"),
    ],
)
def test_a_misspelt_layout_is_refused(layout: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_settings([f"table={layout}"])
    assert sentence in str(refused.value)


def test_a_list_of_generations_is_an_ensemble_of_cells() -> None:
    cells = "{A: {method: ban, generation: [1, 2]}, B: [{method: ban, generation: 1}, {method: ban, generation: 2}]}"
    settings = compose_settings([f"table={{cells: {cells}}}"])
    assert settings.table and settings.table.cells["A"] == settings.table.cells["B"]
    assert settings.table.cells["A"] == [Cell(method="ban", generation=1), Cell(method="ban", generation=2)]


def test_a_cell_with_two_settings_of_its_method_means_neither(tmp_path: Path) -> None:
    lineages = [plan("method=ban_l", f"method.terms.label.weight={weight}") for weight in (0.5, 1)]
    layout = TableLayout(cells={"ours": [Cell(method="ban_l", generation=1)], "teacher": [Cell(method="labels")]})
    rows = found(Store(tmp_path), *lineages, layout=layout)
    assert not rows["ours"].families and rows["teacher"].families


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [("images", ()), ("language", ()), ("tabular", ()), ("images", ("method=fitnets", "model=wrn_10_1"))],
)
def test_a_result_has_the_fields_of_its_type(train: Train, kind: str, overrides: Sequence[str]) -> None:
    results = train("recipe.epochs=2", "recipe.evaluate_every=1", *overrides, kind=kind)
    for result in results:
        TypeAdapter(Result).validate_python(result, strict=True)
        assert {*result} <= Result.__required_keys__ | Result.__optional_keys__
    assert {result["prepares"] for result in results} == {False, bool(overrides)}
