"""The benchmark of Tian et al. 2020: its plan, its published numbers, and the table of pairs of teacher and student."""

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from helpers import DIGITS, Say, made, publish

from ban.errors import UserError
from ban.interfaces import Batch, Output, Progress, TeacherOutput
from ban.plan.lineage import lineage, union
from ban.plan.stage import Stage
from ban.report.benchmark import published_errors
from ban.schedules import Steps
from ban.settings.compose import CONF, compose_config, compose_settings
from ban.settings.schema import Settings
from ban.settings.sweeps import expand, jobs_of
from ban.store.store import Store
from ban.terms import Flow, Hint

SLOW = {"mobilenet_v2", "shufflenet_v1", "shufflenet_v2"}
"""Students that learn at a rate of 0.01."""
GIVEN = ["experiment=benchmark", "seed=0"]


@functools.cache
def sweeper() -> Any:
    """The experiment's sweeps, all and by scale."""
    return compose_config(["experiment=benchmark"]).hydra.sweeper


@functools.cache
def jobs() -> list[dict[str, str]]:
    """Key → value of each job at scale=paper: composing them all takes half a minute."""
    return [
        dict(word.lstrip("+").split("=", 1) for word in job if not word.startswith("method.pretrain"))
        for job in expand(sweeper()["sweeps"], GIVEN, sweeper()["by_scale"])
    ]


# The plan


def test_the_pairs_and_methods_are_those_of_the_published_tables() -> None:
    taught = {(job["teacher"], job["model"], job["method"]) for job in jobs() if "teacher" in job}
    alone = {job["model"] for job in jobs() if job["method"] == "labels"}
    assert len(jobs()) == len(taught) + len(alone) and len({job[:2] for job in taught}) == 13 and len(alone) == 9
    assert {model for _, model, _ in taught} == alone
    published = {key for key in published_errors() if key[2] not in ("teacher", "labels")}
    assert published <= taught
    assert {method for _, _, method in taught - published} == {"dkd", "dist"}


def test_small_networks_without_plain_convolutions_learn_slowly_and_their_teachers_do_not() -> None:
    for job in jobs():
        slow = job["model"] in SLOW
        assert job.get("recipe.optimizer.lr") == ("0.01" if slow else None)
        assert job.get("teacher.recipe.optimizer.lr") == ("0.05" if slow and "teacher" in job else None)


def test_the_paraphraser_learns_at_the_published_rate() -> None:
    """0.01 before students that are ResNets or Wide-ResNets; elsewhere the student's own."""
    words = expand(sweeper()["sweeps"], GIVEN, sweeper()["by_scale"])
    found = [dict(word.split("=", 1) for word in job) for job in words if "method=ft" in job]
    for job in found:
        rate = float(job.get("recipe.optimizer.lr", 0.05)) * float(job.get("method.pretrain.rate", 0.2))
        assert rate == pytest.approx(0.05 if job["model"] == "vgg8" else 0.01)
    assert len(found) == 13


@pytest.fixture(scope="module")
def some() -> list[Stage]:
    """The stages of four pairs and two methods, and of two students alone."""
    words = [
        [f"{key}={value}" for key, value in job.items()]
        for job in jobs()
        if job["model"] in ("vgg8", "mobilenet_v2") and job["method"] in ("at", "labels")
    ]
    return union(lineage(compose_settings(["experiment=benchmark", *each])) for each in words)


def test_each_teacher_is_trained_once(some: list[Stage]) -> None:
    rates = [(stage.model.name, stage.recipe.learning_rate) for stage in some if not stage.generation]
    assert sorted(rates) == [("mobilenet_v2", 0.01), ("resnet50", 0.05), ("vgg13", 0.05), ("vgg8", 0.05)]
    students = [stage for stage in some if stage.generation]
    assert len(students) == 4 and {stage.recipe.learning_rate for stage in students} == {0.05, 0.01}
    assert {stage.method.terms["layers"].constructor["layers"][-1] for stage in students} == {"stage4"}


def test_recipe_and_images_are_those_of_the_published_code(some: list[Stage]) -> None:
    recipe, augmentation = some[0].recipe, some[0].dataset.node()["augmentation"]
    assert (recipe.epochs, recipe.batch_size) == (240, 64)
    steps = Steps(**{key: value for key, value in recipe.schedule.items() if key != "_target_"})
    factors = [steps(Progress(epoch, 0, 1, 240)) for epoch in range(240)]
    assert [factors.count(pytest.approx(0.1**drops)) for drops in range(4)] == [150, 30, 30, 30]
    assert (augmentation["pad"], augmentation["pad_mode"], augmentation["flip"]) == (4, "constant", True)
    assert [value / 255 for value in augmentation["mean"]] == pytest.approx([0.5071, 0.4867, 0.4408])
    assert [value / 255 for value in augmentation["std"]] == pytest.approx([0.2675, 0.2565, 0.2761])


def test_the_weights_are_those_of_the_published_code() -> None:
    weights = {"hint": 100, "at": 1000, "sp": 3000, "cc": 0.02, "vid": 1, "rkd": 1, "pkt": 30000, "nst": 50}
    for method, weight in weights.items():
        label, other = terms_of(method)
        assert (label["weight"], other["weight"]) == (1.0, weight), method
    label, teacher = terms_of("kd")
    assert (label["weight"], teacher["weight"], teacher["temperature"]) == (0.1, 0.9, 4.0)


def terms_of(method: str) -> list[dict[str, Any]]:
    return [*yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())["terms"].values()]


@pytest.mark.parametrize("scale", ["digits", "smoke"])
def test_small_scales_have_one_pair_and_all_methods_but_factor_transfer(scale: str) -> None:
    small = expand(sweeper()["sweeps"], [*GIVEN, f"scale={scale}"], sweeper()["by_scale"])
    words = [dict(word.split("=", 1) for word in job) for job in small]
    assert {job["method"] for job in words} == {job["method"] for job in jobs()} - {"ft"}
    assert len(small) == len({job["method"] for job in words})
    assert {(job["teacher"], job["model"]) for job in words} == {("wrn_16_1", "wrn_10_1")}


def test_a_scale_may_choose_among_the_sweeps() -> None:
    sweeps = {"a": {"seed": "1,2"}, "b": {"seed": 3}}
    assert len(expand(sweeps, [])) == 3
    assert expand(sweeps, ["scale=smoke"], {"smoke": {"sweeps": ["b"], "replica": 1}}) == [
        ["seed=3", "replica=1", "scale=smoke"]
    ]
    with pytest.raises(UserError, match=r"by_scale.smoke.sweeps: there is no sweep 'c'"):
        expand(sweeps, ["scale=smoke"], {"smoke": {"sweeps": ["c"]}})


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        ("b", '"b", but it must be a list of names, for example [b]'),
        ([], "[], but it"),
        ({"b": 1}, "{b:1}, but it"),
        ([["b"]], '[["b"]], but it'),
    ],
)
def test_what_is_no_list_of_sweeps_is_refused(names: Any, refusal: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"hydra.sweeper.by_scale.smoke.sweeps is {refusal}")):
        expand({"a": {"seed": 1}, "b": {"seed": 3}}, ["scale=smoke"], {"smoke": {"sweeps": names}})


def test_some_of_the_pairs_can_be_chosen() -> None:
    chosen = "+hydra.sweeper.by_scale.paper.sweeps=[resnet56_fsp]"
    (job,) = jobs_of(["experiment=benchmark", "seed=0", chosen])
    assert (job.method.name, job.model.name, job.teacher.model.name) == ("fsp", "resnet20", "resnet56")
    first = lineage(job)[1]
    assert (first.epochs, first.recipe.learning_rate, first.method.terms["flow"].weight) == (30, 0.05, 1.0)


# Losses as in the published code


BATCH = Batch((torch.zeros(6, 1),), torch.zeros(6, dtype=torch.long), torch.arange(6))


def test_a_hint_may_be_twice_as_large_and_its_mean_is_that_of_torch() -> None:
    ours, theirs = made(6, 4, 6, 0.7, 0.3).float(), made(6, 8, 12, 0.4, 1.1).float()
    output, teacher = Output(torch.zeros(6, 2), {"a": ours}), TeacherOutput(features={"b": theirs})
    term = Hint("a", "b", norm=True, relu=True, mean=True)
    term.prepare(output, teacher)
    predicted = term.regressor(ours)
    assert predicted.shape == theirs.shape
    expected = torch.nn.functional.mse_loss(predicted, theirs)
    assert float(term(output, teacher, BATCH).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_mean_of_fsp_matrices() -> None:
    ours, theirs = made(6, 4, 6, 0.7, 0.3), made(6, 4, 6, 0.4, 1.1)
    output, teacher = Output(torch.zeros(6, 2), {"a": ours}), TeacherOutput(features={"a": theirs})
    matrices = [torch.einsum("bixy,bjxy->bij", each, each) / 36 for each in (ours, theirs)]
    expected = (matrices[0] - matrices[1]).square().mean()
    assert float(Flow([["a", "a"]], mean=True)(output, teacher, BATCH)) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )


# The published numbers and the table


def test_published_numbers() -> None:
    found = published_errors()
    assert found["wrn_40_2", "wrn_16_2", "kd"] == 25.08  # 74.92 %
    assert found["resnet110", "resnet32", "teacher"] == 25.69
    assert found["vgg13", "vgg8", "fsp"] == 29.77
    assert found["resnet50", "mobilenet_v2", "labels"] == 35.40
    assert found["wrn_40_2", "shufflenet_v1", "crd"] == 23.95
    assert found["resnet32x4", "shufflenet_v2", "hint"] == 26.46
    assert ("wrn_40_2", "wrn_40_1", "fsp") not in found
    assert len(found) == 7 * 14 - 1 + 6 * 13


def errors(store: Store, stages: list[Stage], values: dict[str, float]) -> None:
    """Publishes the stages that are not there yet, with the errors of their methods."""
    for stage in stages:
        if not store.has(stage.signature):
            name = "teacher" if stage.model.name == "wrn_10_2" else stage.method.name
            publish(store, stage, test_error_percent=values[name])


def with_seed(job: Settings, seed: int) -> Settings:
    """The job of another seed."""
    parts = {"teacher": replace(job.teacher, seed=seed), "dataset": replace(job.dataset, split_seed=seed)}
    return replace(job, seed=seed, **parts)


def test_the_table_compares_students_of_one_teacher(say: Say, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    pair = ("model=wrn_10_1", "teacher=wrn_10_2")
    trained = [compose_settings([*DIGITS, *pair, f"method={method}"]) for method in ("labels", "kd", "at")]
    trained.append(compose_settings([*DIGITS, "model=wrn_10_1", "method=ban"]))  # no pair
    for seed, noise in enumerate((0.0, 0.5, 1.0)):
        values = {"teacher": 5.0 + noise, "labels": 20.0 + noise, "kd": 15.0 + 1.1 * noise, "at": 16.0 + 1.3 * noise}
        for job in trained:
            errors(store, lineage(with_seed(job, seed)), values | {"ban": 1.0})
    shown = say("table", "benchmark")
    assert "Wide-ResNet-10-2 teaches Wide-ResNet-10-1" in shown and "published" not in shown
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "benchmark.csv").set_index("cell")
    assert [*frame.index] == ["Teacher", "Labels alone", "KD", "AT"]
    assert frame["test_error_percent"].tolist() == pytest.approx([5.5, 20.5, 15.55, 16.65])
    assert frame["gain_over_labels"].dropna().tolist() == pytest.approx([-4.95, -3.85])
    assert frame["gain_over_kd"].dropna().tolist() == pytest.approx([1.1])
    # t(0.975, 2) = 4.3027: differences to the labels of -4, -3.85, -3.7
    assert frame.loc["AT", "gain_over_labels_half_width"] == pytest.approx(4.3027 * 0.15 / 3**0.5, rel=1e-4)
    assert frame["n"].tolist() == [3, 3, 3, 3] and frame["gain_over_kd_n"].tolist() == [0, 0, 0, 3]
    assert frame["gain_over_labels_resolved"].tolist() == [False, False, True, True]


def test_published_numbers_stand_beside_results_of_their_protocol_only(say: Say, tmp_path: Path) -> None:
    pair = ("model=resnet20", "teacher=resnet56", "method=kd")
    changes = ("recipe.epochs=2", "dataset.train_size=2500", "method.terms.teacher.temperature=1", "recipe=wrn")
    words = [[GIVEN[0], *pair], *([GIVEN[0], *pair, change] for change in changes)]
    words.append(["dataset=cifar100", "recipe=tian", *pair])  # with other means and deviations of the images
    for stage in union(lineage(compose_settings(each)) for each in words):
        publish(Store(tmp_path / "outputs"), stage, test_error_percent=30.0)
    shown = say("table", "benchmark")
    assert shown.count("27.66") == shown.count("29.34") == 1  # 72.34 and 70.66 % accuracy
    frame = pd.read_csv(tmp_path / "outputs" / "tables" / "benchmark.csv")
    assert frame["published"].dropna().tolist() == [27.66, 29.34]
    assert frame["cell"].tolist().count("Teacher") == 5  # one for each recipe and data set
    assert {*frame[frame["published"].notna()]["cell"]} == {"Teacher", "KD (temperature 4)"}


def test_a_heading_keeps_what_is_in_a_title(say: Say, tmp_path: Path) -> None:
    words = ("model=wrn_10_1", "teacher=wrn_10_2", "method=kd", "method.title=Two-1-two")
    for stage in lineage(compose_settings([*DIGITS, *words])):
        publish(Store(tmp_path / "outputs"), stage, test_error_percent=5.0)
    assert "Two-1-two " in say("table", "benchmark")


def test_a_store_without_pairs_says_so(say: Say) -> None:
    assert "No student of another network is stored" in say("table", "benchmark")
