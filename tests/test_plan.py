"""Signatures: equal where the weights would be, different where they could differ."""

from dataclasses import replace

import pytest
from helpers import plan

from ban.plan.lineage import union
from ban.plan.stage import Stage
from ban.settings.schema import Term


def signature(*overrides: str) -> str:
    return plan(*overrides)[-1].signature


def test_a_lineage_starts_with_a_label_trained_generation_0() -> None:
    stages = plan("method=dkpp", "generations=3")
    assert [stage.label for stage in stages] == ["Teacher", "DKPP-1", "DKPP-2", "DKPP-3"]
    assert [stage.teachers[0].stage for stage in stages[1:]] == stages[:-1]


def test_a_label_trained_baseline_is_the_teachers_stage() -> None:
    assert signature("method=labels") == plan("method=ban")[0].signature


def test_more_generations_extend_fewer() -> None:
    assert [s.signature for s in plan("generations=3")][:2] == [s.signature for s in plan("generations=1")]


def test_methods_share_their_teacher_and_their_streams() -> None:
    ban, dkpp = plan("method=ban"), plan("method=dkpp")
    assert ban[0].signature == dkpp[0].signature
    assert ban[1].signature != dkpp[1].signature
    assert ban[1].stream_key == dkpp[1].stream_key != ban[0].stream_key


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "replica=1",
        "recipe.epochs=301",
        "recipe.precision=bf16",
        "recipe.optimizer.lr=0.11",
        "model.width=9",
        "dataset.train_size=90",
        "dataset.label_noise=0.1",
        "method.terms.teacher.weight=2",
        "method.terms.teacher.temperature=2",
        "teacher.seed=5",
    ],
)
def test_what_changes_the_weights_changes_the_signature(override: str) -> None:
    extra = "+" if "temperature" in override else ""
    assert signature(extra + override) != signature()


@pytest.mark.parametrize(
    "override",
    [
        "machine.threads=2",
        "machine.outputs=elsewhere",
        "machine.checkpoint_seconds=1",
        "recipe.evaluate_every=7",
        "recipe.name=mine",
        "model.title=Mine",
        "method.terms.teacher.weight=1",  # 1 is 1.0
        "+method.terms.teacher.nothing=null",  # absent is null
        "dry_run=true",
    ],
)
def test_what_does_not_change_the_weights_does_not_change_the_signature(override: str) -> None:
    assert signature(override) == signature()


def test_the_class_name_counts_and_its_module_does_not() -> None:
    stage = plan()[-1]

    def targeting(target: str) -> str:
        terms = {"teacher": Term(constructor={"_target_": target}, weight=1.0)}
        return replace(stage, method=replace(stage.method, terms=terms)).signature

    assert targeting("ban.terms.Probabilities") == targeting("ban.elsewhere.Probabilities") == stage.signature
    assert targeting("ban.terms.Logits") != stage.signature


def test_a_raised_version_changes_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signature()
    monkeypatch.setattr("ban.plan.signature.VERSIONS", {"Probabilities": 2})
    assert signature() != before


def test_editing_a_users_class_changes_the_signature(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = tmp_path / "my_terms.py"
    code.write_text("class Mine: ...\n")
    override = "method.terms.teacher._target_=my_terms.Mine"
    before = signature(override)
    code.write_text("class Mine: pass\n")
    assert signature(override) != before


def families(*overrides: str) -> list[str]:
    return [stage.family for stage in plan(*overrides)]


def test_a_family_ignores_seeds_and_nothing_else() -> None:
    assert families() == families("seed=3") == families("teacher.seed=4")
    assert families()[1] != families("replica=1")[1]
    assert families()[0] != families("recipe.epochs=2")[0]


def test_the_root_seed_is_generation_0s() -> None:
    student = plan("seed=1", "teacher.seed=4", "generations=2")[-1]
    assert (student.seed, student.root_seed) == (1, 4)


def test_a_replica_has_the_same_teacher() -> None:
    twin, first = plan("replica=1"), plan()
    assert twin[0].signature == first[0].signature
    assert twin[1].stream_key != first[1].stream_key
    assert plan("method=labels", "replica=1")[0].label == "Labels (replica 1)"


def test_the_union_holds_every_stage_once_and_teachers_first() -> None:
    stages = union([plan("method=ban", "generations=2"), plan("method=dkpp"), plan("method=ban")])
    assert [stage.label for stage in stages] == ["Teacher", "BAN-1", "BAN-2", "DKPP-1"]


def test_signatures_are_stable() -> None:
    """If this fails, results stored by earlier versions are no longer found: was that meant?"""
    stages: list[Stage] = plan("method=ban_l")
    assert [stage.signature for stage in stages] == ["3f8dc4ba9cd23fd4", "bb297f1a2b163296"]
