"""What a plan would cost, and whether this machine has what it needs."""

import re
import time
from pathlib import Path

import pytest
from helpers import DIGITS, KINDS, Say, Train, cifar100, files, plan

from ban.launch.estimate import disk, estimate
from ban.plan.order import by_longest_path, longest_paths
from ban.settings.compose import compose_settings
from ban.training import timing
from ban.training.device import Device
from ban.training.timing import examples_per_second


@pytest.mark.parametrize(("kind", "method"), [*((kind, "labels") for kind in KINDS), ("images", "ft")])
def test_the_disk_is_what_a_training_leaves(kind: str, method: str, train: Train, tmp_path: Path) -> None:
    options = (f"method={method}", "recipe.epochs=1", "recipe.select=null")  # of one epoch the best is the last
    options += ("method.pretrain.terms.factors.layer=stage2",) if method == "ft" else ()
    train(*options, kind=kind)
    left = sum(path.stat().st_size for path in files(tmp_path / "stages") if path.suffix == ".safetensors")
    assert sum(disk(stage).kept for stage in plan(*options, kind=kind)) == pytest.approx(left, rel=0.2)


def test_checkpoints_hold_what_terms_remember() -> None:
    """Contrastive distillation remembers an embedding by the student and one by the teacher of each training image."""
    born_again, contrastive = plan()[-1], plan("method=crd")[-1]
    embeddings = 2 * 4 * 128 * born_again.dataset.train_size
    assert disk(contrastive).temporary - disk(born_again).temporary == pytest.approx(2 * embeddings, rel=0.2)


def test_a_plan_counts_the_examples_that_have_labels() -> None:
    """And the others where they are used without."""
    few = ("dataset.train_size=1000", "dataset.test_size=700", "dataset.labelled=100")
    alone, with_others = plan("method=labels", *few)[0], plan("method=mean_teacher", *few)[0]
    assert alone.dataset.training_examples == 100 and with_others.dataset.training_examples == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_give_the_speed(kind: str, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, time.process_time)  # which other processes on this machine do not change
    epochs = ("recipe.epochs=200",) if kind != "language" else ("recipe.epochs=4",)
    device = Device.of(compose_settings(KINDS[kind]).machine)
    result = train("method=labels", *epochs, kind=kind)[-1]
    real = next(value for name, value in result.items() if name.endswith("_per_second"))
    (stage,) = plan("method=labels", *epochs, kind=kind)
    assert real / 3 < examples_per_second(stage, device) < 3 * real


def test_a_plan_takes_the_time_of_all_and_at_least_that_of_its_longest_chain() -> None:
    stages = [*plan("generations=2"), *plan("seed=1", "method=labels")]
    device = Device.of(compose_settings(DIGITS).machine)
    found = estimate(stages, device, lambda kinds: kinds)
    assert found.kinds == 2  # teachers and students
    assert 0.5 * found.seconds < found.longest < found.seconds
    assert found.kept == sum(disk(stage).kept for stage in stages)


def test_large_networks_are_timed_once_for_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's step is four thirds of its teacher's: one more forward pass."""
    timed = list[str]()
    monkeypatch.setattr(timing, "examples_per_second", lambda stage, device: timed.append(stage.label) or 3.0)
    stages = cifar100("model=wrn_28_2", "method=ban")
    found = estimate(stages, Device.of(compose_settings([]).machine), lambda kinds: kinds)
    examples = 200 * 390 * 128 + 60_000 / 3
    assert timed == ["Teacher"] and found.kinds == 1
    assert found.seconds == pytest.approx(examples / 3 * (1 + 4 / 3), rel=1e-3)


def test_the_longest_chain_goes_first() -> None:
    teacher, first, second = plan("generations=2")
    (alone,) = plan("seed=1", "method=labels")
    stages = [alone, teacher, first, second]
    costs = dict(zip((stage.signature for stage in stages), (5.0, 1.0, 2.0, 3.0), strict=True))
    chains = longest_paths(stages, lambda stage: costs[stage.signature])
    assert [chains[stage.signature] for stage in stages] == [5.0, 6.0, 5.0, 3.0]
    assert by_longest_path(stages, lambda stage: costs[stage.signature]) == [teacher, alone, first, second]


def test_a_dry_run_of_a_sweep_shows_what_is_shared_and_what_it_costs(say: Say, tmp_path: Path) -> None:
    shown = " ".join(say("-m", *DIGITS, "method=ban,dkpp", "seed=0,1", "dry_run=true").split())
    assert "Teacher, Small-Conv × 2 ├── BAN-1, Small-Conv × 2 └── DKPP-1, Small-Conv × 2" in shown
    assert "4 jobs need 8 trainings; shared ones run once, which saves 2." in shown
    assert (
        re.search(r"(seconds|minutes|hours) on cpu \(1 thread; [^)]*CPUs?[^)]*\) for all stages", shown)
        and "a few timed steps of 3 kinds of training" in shown
    )
    assert not files(tmp_path)


def test_the_doctor_finds_what_is_there(say: Say) -> None:
    found = " ".join(say("doctor", *DIGITS).split())
    for words in (
        "✓ locks work between processes",
        "✓ store",
        "✓ disk",
        "– CIFAR-100 missing or incomplete in data",
        "✓ CPU",
    ):
        assert words in found


@pytest.mark.parametrize(
    ("setting", "what"), [("machine.outputs=file", "store"), ("machine.device=cuda:99", "machine.device")]
)
def test_the_doctor_says_what_is_wrong(setting: str, what: str, say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=rf"problems with .*{what}"):
        say("doctor", *DIGITS, setting)
