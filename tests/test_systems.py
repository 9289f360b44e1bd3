"""What all stored results say together."""

from pathlib import Path

import pandas as pd
import pytest
from helpers import DIGITS, Say, Train, curves, plan, publish

from ban.plan.stage import Stage
from ban.report.gradients import HEADINGS
from ban.store.formats import dump_curves
from ban.store.store import Store

PARTLY = ("dataset.labelled=40",)


def publish_error(store: Store, stage: Stage, error: float, **diagnosis: float) -> None:
    diagnosed = {f"diagnosis.{name}": value for name, value in diagnosis.items()}
    records = [{"epoch": n, "rate": 1.0, "seconds": 1.0, **diagnosed} for n in range(1, stage.recipe.epochs + 1)]
    files = {"curves.jsonl": lambda path: path.write_bytes(dump_curves(records))}
    publish(store, stage, files, test_error_percent=error)


def test_each_system_stands_beside_the_labels_alone(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    for seed, (alone, taught) in enumerate([(20.0, 17.0), (22.0, 18.0), (21.0, 19.0)]):
        teacher, student = plan(f"seed={seed}", "method=dkpp", "teacher=wrn_10_1")
        publish_error(store, teacher, 10.0)
        publish_error(store, student, taught)
        publish_error(store, plan(f"seed={seed}", "method=labels")[0], alone)
    say("table", "methods")
    publish_error(store, plan("seed=9", "method=dkpp", "teacher=wrn_10_1")[1], 90.0)  # nobody to compare it with
    (row,) = pd.read_csv(tmp_path / "outputs" / "tables" / "methods.csv").to_dict("records")
    assert (row["system"], row["baseline"], row["student"], row["gain"], row["n"]) == ("DKPP-1", 21.0, 18.0, -3.0, 3)
    assert row["gain_half_width"] == pytest.approx(4.302653 * 1 / 3**0.5)  # Student's t with two degrees of freedom
    shown = (tmp_path / "outputs" / "tables" / "methods.md").read_text()
    for text in (r"-3.00 ± 2.48 \*", "| Wide-ResNet-10-1 |", "-0.26 (DenseNet-90-60, CIFAR-100)"):
        assert text in shown


def test_systems_of_one_name_and_seeds_without_a_partner_are_told_apart(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    half = ("method.terms.label.weight=0.5", "method.terms.teacher.weight=0.5")
    for settings, error in (((), 15.0), (half, 17.0), (("generations=2",), 16.0)):
        publish_error(store, plan("method=ban_l", *settings)[-1], error)
    publish_error(store, plan("method=labels")[0], 20.0)
    publish_error(store, plan("method=ban_l", "seed=1")[-1], 70.0)
    publish_error(store, plan("method=dkpp", "teacher=wrn_10_1")[-1], 18.0)
    say("table", "methods")
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "methods.csv").set_index("system")
    assert len(frame) == 4 and {*frame["gain"]} == {-5.0, -3.0, -4.0, -2.0} and {*frame["n"]} == {1}
    shown = (tmp_path / "outputs" / "tables" / "methods.md").read_text()
    assert shown.count("-0.76 (DenseNet-90-60, CIFAR-100)") == 2  # the paper has one generation
    assert shown.count("no longer stored") == 1 and "| BAN+L-2 " in shown


def test_what_a_method_does_with_unlabelled_images_makes_no_regime_of_its_own(say: Say, tmp_path: Path) -> None:
    """Mean teacher against labels alone: as many steps, the unlabelled images there but without a loss."""
    ours, alone = plan("method=mean_teacher", *PARTLY)[0], plan("method=labels", *PARTLY)[0]
    steps = plan("method=labels", "+method.data.unlabelled=true", *PARTLY)[0]
    assert ours.regime == alone.regime == steps.regime
    assert len({ours.signature, alone.signature, steps.signature}) == 3
    assert plan("method=labels", "dataset.labelled=50")[0].regime != alone.regime
    store = Store(tmp_path / "outputs")
    publish_error(store, ours, 12.0)
    publish_error(store, steps, 20.0)
    publish_error(store, alone, 30.0)  # fewer steps
    say("table", "methods")
    assert "-8.00" in (tmp_path / "outputs" / "tables" / "methods.md").read_text()


def test_diagnostics_of_the_last_epoch(say: Say, tmp_path: Path) -> None:
    teacher, student = plan()
    store = Store(tmp_path / "outputs")
    publish_error(store, teacher, 20.0)
    publish_error(store, student, 17.0, **{name: float(number) for number, name in enumerate(HEADINGS)})
    say("table", "diagnostics")
    shown = (tmp_path / "outputs" / "tables" / "diagnostics.md").read_text()
    assert "| BAN-1" in shown and "Teacher" not in shown.partition("|")[2].partition("\n")[0]
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "diagnostics.csv")
    assert frame.loc[0, [*HEADINGS]].tolist() == [*range(len(HEADINGS))]


def test_a_student_of_synthetic_examples_lacks_no_diagnostics(train: Train, say: Say, tmp_path: Path) -> None:
    """Most of its examples have no label whose gradient could be compared."""
    *_, student = train("method=munge", "recipe.epochs=1", "recipe.diagnosed_steps=1", kind="tabular")
    assert not [key for key in curves(tmp_path, student["signature"])[-1] if key.startswith("diagnosis.")]
    assert "No student is stored" in say("table", "diagnostics", f"machine.outputs={tmp_path}")
    *_, other = train("method=ban", "recipe.epochs=1", "recipe.diagnosed_steps=0", kind="tabular")
    shown = say("table", "diagnostics", f"machine.outputs={tmp_path}")
    assert f"1 student without diagnostics: {other['signature']}." in shown


def test_every_diagnostic_of_the_table_is_recorded() -> None:
    import torch

    from ban.training.diagnostics import report, summary

    assert {*HEADINGS} <= {*summary(report(torch.randn(4, 5), torch.randn(4, 5), torch.arange(4)))}


def test_what_a_stored_stage_lacks_is_named_with_the_way_to_get_it(say: Say, tmp_path: Path) -> None:
    """Repeating the command with the setting would find the stages stored, and record nothing."""
    store = Store(tmp_path / "outputs")
    for stage in plan():
        publish_error(store, stage, 20.0)
    student = plan()[1].signature
    shown = say("table", "diagnostics")
    assert f"1 student without diagnostics: {student}" in shown and "ban stages remove" in shown
    shown = say(*DIGITS, "recipe.diagnosed_steps=1", "recipe.evaluate_every=2")
    assert f"Stored without diagnosed steps (recipe.diagnosed_steps): {student}. To record" in shown
    assert f"(recipe.evaluate_every): {plan()[0].signature}, {student}." in shown
    assert "Stored without" not in say(*DIGITS)


def test_an_empty_store_says_so(say: Say) -> None:
    assert "No finished system" in say("table", "methods")
    assert "No student is stored" in say("table", "diagnostics")
