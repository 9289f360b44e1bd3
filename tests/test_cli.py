"""What a person types, and what comes back."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import DIGITS, Say, ban, files, with_bases
from PIL import Image

from ban import __version__
from ban.display import console
from ban.errors import UserError
from ban.launch import overview
from ban.launch.estimate import Estimate
from ban.plan.lineage import lineage
from ban.settings.compose import CONF, compose_config, compose_settings
from ban.settings.sweeps import expand
from ban.store.store import Store

QUICK = (*DIGITS, "recipe.epochs=10")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=wrn_28_10", "there is no setting 'modle': did you mean 'model'?"),
        ("model=wrn_28_11", "there is no model 'wrn_28_11': did you mean model=wrn_28_1? `ban help model` lists all"),
        ("recipe.epoch=3", "there is no setting 'recipe.epoch': did you mean 'recipe.epochs'?"),
        ("recipe.epochs=many", "recipe.epochs is the text 'many'; it must be an integer."),
        ("recipe.epochs=0", "recipe.epochs is 0; it must be greater than or equal to 1."),
        ("seed=1.5", "seed is 1.5; it must be an integer."),
        ("seed=0,1", "sweep over them with `ban -m seed=0,1`"),
        ("generations=-1", "generations is -1; it must be greater than or equal to 0."),
        ("dataset.train_size=all", "dataset.train_size is the text 'all'"),
        ("recipe.optimizer.lr=fast", 'the learning rate lr="fast"; it must be a number above 0'),
        ("recipe.precision=fp8", "recipe.precision is fp8; it must be fp32 or bf16."),
        ("machine.device=tpu", "machine.device is tpu; it must be auto, cpu, cuda or cuda:N."),
        ("+recipe@teacher.recipe=lstm", "teacher.recipe=lstm is not for images"),
        ("+recipe.clip_norm=0", "recipe.clip_norm is 0; it must be greater than 0."),
        ("+recipe.loss_scale=-1", "recipe.loss_scale is -1; it must be greater than 0."),
        ("xyz.abc=1", "there is no setting 'xyz.abc'"),
        ("+recipe.epochs=3", "recipe.epochs is set already: leave out the +."),
        ("+recipe.steps_per_epoch=0", "recipe.steps_per_epoch is 0"),
        ("dataset.label_noise=20", "dataset.label_noise is 20; it must be less than 1."),
        ("teacher.recipe=wrn", "teacher.recipe.batch_size=128 is larger than the training set of 100 examples"),
        ("recipe.schedule={step: 3}", "add it with +recipe.schedule.OPTION=VALUE"),
        ("model=lstm_small", "model=lstm_small does not read images"),
        ("recipe=lstm", "recipe=lstm is not for images"),
        ("dataset=ptb", "model=small_conv does not read language"),
        (
            "dataset=wine",
            "model=small_conv does not read tabular data, which dataset=wine consists of: choose model=mlp_256",
        ),
        ("model=mlp_16", "model=mlp_16 does not read images"),
        ("recipe.select=best", "recipe.select is best; it must be best_validation."),
        ("recipe.select=best_validation", "needs a validation set"),
        ("recipe.schedule._target_=ban.schedules.Plateau", "needs recipe.select=best_validation"),
        ("recipe.beta1={_target_: ban.schedules.GaussianRampDown}", "recipe.beta1=null, or choose torch.optim.Adam"),
        ("recipe.beta1={start: 0.9}", "recipe.beta1 has no _target_"),
        ("recipe.beta1=0.5", "recipe.beta1 is 0.5; it must be a mapping"),
        ("recipe=wrn", "recipe.batch_size=128 is larger than the training set of 100 examples"),
        ("dataset.labelled=20", "recipe.batch_size=32 is larger than the training set of 20 examples"),
        ("dataset.whitening=pca", "dataset.whitening is pca; it must be zca."),
        ("+method.terms.x.weight=1", "method.terms.x has no _target_"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_the_choices(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_settings([*DIGITS, override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=lstm", "method=munge"], "method=munge needs munge, which language data do not support"),
        (
            ["model=mlp_16", "method=pi_model"],
            "method=pi_model needs shared_flip, views, which tabular data do not support",
        ),
        (
            ["model=mlp_16", "recipe=lstm"],
            "recipe=lstm is not for tabular data: choose one like tabular, budget_tabular",
        ),
    ],
)
def test_what_a_kind_of_data_does_not_have_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_settings(overrides)
    assert message in str(caught.value)


def test_a_method_without_teacher_has_no_generations() -> None:
    with pytest.raises(UserError, match="method=labels has no trained teacher, so there is no generation 3"):
        compose_settings([*DIGITS, "method=labels", "generations=3"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modle=x"], "did you mean 'model'?"),
        (["model=wrn_28_11"], "did you mean model=wrn_28_1?"),
        (["model=WRN_28_10"], "did you mean model=wrn_28_10?"),
        (["model=resnet18"], "networks of a library: model=torchvision or model=timm, and model.architecture=NAME"),
        (["experiment=dmeo"], "did you mean experiment=demo?"),
        (["lr=0.01"], "did you mean 'recipe.optimizer.lr'?"),
        (["temperature=3"], "did you mean 'method.terms.teacher.temperature'?"),
        (["statsu"], "did you mean `ban status`?"),
        (["demo"], "did you mean `ban experiment=demo`?"),
        (["wrn_28_2"], "did you mean `ban model=wrn_28_2`?"),
        (["train"], "without one, ban trains"),
        (["table", "methdos"], "did you mean `ban table methods`?"),
        (["stages", "shwo", "1234"], "did you mean `ban stages show 1234`?"),
        (["help", "modle"], "did you mean model?"),
        (["help", "seed"], "choose one of model, dataset"),
        (["--generations", "3"], "settings have no dashes, as in generations=3"),
        (["--dry-run"], "settings have no dashes, as in dry_run=VALUE"),
        (["-m", "--seed=1"], "settings have no dashes, as in seed=1"),
        (["generations=-1"], "greater than or equal to 0"),
        (["tabel"], "neither a sub-command nor KEY=VALUE: did you mean `ban table`?"),
        (["table", "7"], "there is no experiment 'table7'"),
        (["table", "1", "2"], "takes one name"),
        ([*DIGITS, "method=dkpp", "dataset.classes=2"], "2 classes"),
        ([*DIGITS, "+method.terms.keys={_target_:ban.terms.Label,weight:1.0}"], "does not take 'keys' as a name"),
        ([*DIGITS, "+model.depth=3"], "there is no setting 'model.depth'"),
        ([*DIGITS, "model=wrn_10_1", "model.depth=11"], "6n + 4"),
        (
            [*DIGITS, "method.terms.teacher.weight=-1"],
            "method.terms.teacher.weight=-1 makes the weights add up to -1, but",
        ),
        (
            ["model=lstm_small", "method=mean_teacher"],
            "needs dataset.labelled, which is not there: choose another method",
        ),
        (
            ["model=cnn_lstm_small", "dataset=digits", "recipe=digits"],
            "model.characters needs dataset.characters, which is not there",
        ),
        ([*DIGITS, "method=labels", "+teacher.models.a=small_conv"], "teacher.models has no effect: method=labels has"),
        ([*DIGITS, "dataset.label_noise='0.2'"], "dataset.label_noise is the text '0.2'; it must be a number"),
        ([*DIGITS, "method.terms=[1]"], "method.terms must be a mapping {KEY: VALUE}"),
        ([*DIGITS, "machine.device=cuda:99"], "CUDA device"),
        ([*DIGITS, "method=munge", "method.data.munge.swap_probability=1.5"], "it must be less than or equal to 1"),
        (["-m", "experiment=table1,table2"], "experiment takes one name"),
        (["table", "--all"], "`ban table --help` shows its use"),
        (["status", "now"], "use: ban status"),
        (["doctor", "ptb"], "use: ban doctor"),
        (["stages", "show"], "use: ban stages show SIGNATURE"),
        (["stages", "export", "a"], "use: ban stages export SIGNATURE FILE"),
        (["stages", "import", "missing.ban"], "missing.ban is missing"),
        (["-m", *DIGITS, "seed=range(0)"], "the sweep is empty"),
        (
            ["-m", *DIGITS, "method=ban,", "dkpp"],
            "'method=ban,' cannot be read: it ends after a comma. Lists have no spaces",
        ),
        (["-m", *DIGITS, "seed=rnage(3)"], "'seed=rnage(3)' cannot be read: Unknown function 'rnage'"),
        ([*DIGITS, "~method.terms.teacher.weight"], "method.terms.teacher has no weight: it is missing in"),
        (
            [*DIGITS, "~method.terms.teacher.weight", "+method.terms.teacher.wieght=1"],
            "method.terms.teacher has no weight: did you write method.terms.teacher.wieght for it?",
        ),
        (
            [*DIGITS, "dataset.train_size=200"],
            "need 1897: lower dataset.train_size or dataset.test_size.",
        ),
        ([*DIGITS, "dataset.classes=3"], "Digits has only 537 images of the first 3 classes, but"),
        ([*DIGITS, "dataset.classes=11"], "dataset.classes is 11, but Digits has 10."),
        (
            ["model=wrn_16_1", "dataset.train_size=60000"],
            "CIFAR-100 has only 50000 training images, but dataset.train_size=60000 needs 60000: lower",
        ),
        ([*DIGITS, "~model.title"], "model has no title: it is missing in the YAML file, was removed, or is null"),
        ([*DIGITS, "tabel"], "'tabel' is not KEY=VALUE"),
        (["--config-dir=missing", "status"], "there is no folder missing for --config-dir"),
        (["--config-dir", ".", "tabel"], "neither a sub-command"),
        (["status", "-cd"], "expected one argument"),
        (["-m", *DIGITS, "seed=0,1.5"], "seed is 1.5; it must be an integer"),
        (["-m", *DIGITS, "hydra.launcher.stages_per_device=0"], "stages_per_device is 0"),
        (["-m", *DIGITS, "model=small_conv,big_conv"], "there is no model 'big_conv'"),
    ],
)
def test_the_command_refuses_and_writes_nothing(arguments: list[str], message: str, say: Say, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refusal:
        say(*arguments)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not files(tmp_path)


def test_a_refusal_is_one_line_and_a_status(tmp_path: Path) -> None:
    done = ban(*DIGITS, "method=dkpp", "dataset.classes=2", cwd=tmp_path, expect=1)
    assert "2 classes" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not done.stdout and not files(tmp_path)


def test_without_a_gpu_the_papers_experiment_says_its_cost_and_trains_nothing(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost is what a dry run estimates, whose measurement takes a minute on slow cores."""
    monkeypatch.setattr(overview, "estimate", lambda *_: Estimate(4e7, 4e7, 0, 0, 2))
    arguments = ["model=densenet_80_80", "method=dkpp", "generations=3", "machine.device=cpu"]
    with pytest.raises(SystemExit, match=r"training 4 stages would take about 463 days on this CPU") as refusal:
        say(*arguments)
    assert "yes=true" in str(refusal.value) and "scale=smoke" in str(refusal.value)
    assert not files(tmp_path)


@pytest.mark.parametrize(("scale", "cheaper"), [("paper", ["budget", "smoke"]), ("budget", ["smoke"]), ("smoke", [])])
def test_only_cheaper_scales_are_advised(scale: str, cheaper: list[str]) -> None:
    advice = overview._cheaper(lineage(compose_settings(["model=wrn_16_1", f"scale={scale}"])))
    assert re.findall(r"scale=(\w+)", advice) == cheaper and "fewer seeds" in advice


def test_a_scale_with_more_examples_than_there_are_is_not_advised() -> None:
    assert re.findall(r"scale=(\w+)", overview._cheaper(lineage(compose_settings([*DIGITS])))) == ["smoke"]


def test_questions_about_the_command_are_answered(say: Say, tmp_path: Path) -> None:
    own = str(shutil.copytree(Path(__file__).parent / "own" / "conf", tmp_path / "it's mine"))
    model = ("model=linear", "model._target_=ban.models.MLP")
    assert say("--version") == f"ban {__version__}\n"
    assert "ban stages export SIGNATURE FILE" in say("stages", "--help")
    assert say("-c", "job", "--package", "seed") == "0\n"  # Hydra's, and not -cd
    for words in (["--config-dir", own, "table"], [f"--config-dir={own}", "table"], ["table", "-cd", own]):
        assert "No finished system" in say(*words, "methods", *model)


def test_alone_it_explains_itself(tmp_path: Path) -> None:
    alone = ban(cwd=tmp_path).stdout
    assert alone == ban("--help", cwd=tmp_path).stdout
    for word in ("experiment=demo", "table [NAME]", "ban, ban_l, cwtm,", "ban help KEY", "ban -m"):
        assert word in alone
    assert not files(tmp_path)


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from ban.cli import main; atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "experiment=demo" in done.stdout and done.stdout.endswith("False\n")


def test_a_plan_tells_the_two_trainings_of_fitnets_apart(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["method=fitnets", "model=wrn_10_1", "recipe.epochs=1", "generations=2"]
    overview.regimes(lineage(compose_settings([*DIGITS, *words])))
    title = "Digits, 100 training and 1697 test images; recipe digits: 1 epoch, batch 32, fp32"
    assert capsys.readouterr().out.splitlines() == [f"  FitNet hints: {title}", f"  {title}"]


def test_a_dry_run_prints_the_plan_and_trains_nothing(say: Say, tmp_path: Path) -> None:
    arguments = ["model=wrn_16_1", "method=dkpp", "generations=3", "dry_run=true"]
    plan = say(*arguments)
    assert plan.count("0.18 M") == 4
    for word in ("Teacher", "DKPP-3", "4 stages, 0 in the store, 4 to train", "50000 training", "200 epochs"):
        assert word in plan
    assert not files(tmp_path)


def test_a_plan_counts_what_is_continued(tmp_path: Path) -> None:
    store, stages = Store(tmp_path), lineage(compose_settings([*DIGITS, "generations=1"]))
    with store.claim(stages[0].signature) as work:
        assert work is not None
        work.write_checkpoint(1, lambda path: path.write_bytes(b"state"))
    assert overview.counts(stages, stages, store) == "2 stages, 0 in the store, 2 to train (1 from a checkpoint)"


def test_a_lineage_then_a_sweep_that_shares_it_then_its_table(say: Say, tmp_path: Path) -> None:
    first = say(*QUICK, "generations=2")
    assert "3 stages, 0 in the store, 3 to train" in first and "Ens*2" in first
    assert re.search(r"3 stages in 0:\d\d:\d\d. One seed has no interval: `ban -m … seed=0,1,2`", first)
    sweep = say("-m", *QUICK, "method=ban,cwtm", "seed=0,1")
    assert "6 stages, 2 in the store, 4 to train" in sweep
    assert "The tables also count" not in sweep
    other = say(*QUICK, "seed=2")
    assert "The tables also count 4 stages of earlier commands with the same settings (seed 0, 1)." in other
    assert re.search(r"4 stages in 0:\d\d:\d\d. Next: `ban report`.* `ban compare [0-9a-f]{16} [0-9a-f]{16}`", sweep)
    again = say("-m", *QUICK, "method=ban,cwtm", "seed=0,1")
    assert "6 stages, 6 in the store, 0 to train" in again and "stages in 0:" not in again
    table = say("table")
    for word in ("Teacher", "BAN-1", "BAN-2", "CWTM-1", "Ens*2", "100 training", "not resolved"):
        assert word in table
    written = {path.name for path in (tmp_path / "outputs" / "tables").iterdir()}
    assert {"all.md", "all.csv", "all.tex"} <= written


def test_settings_of_the_command_line_win_in_an_experiment(say: Say) -> None:
    """`ban experiment=demo` is a sweep by itself; a smaller one finishes in a moment."""
    arguments = ["experiment=demo", "recipe.epochs=5", "seed=0,1", "machine.device=cpu"]
    shown = say(*arguments)
    assert "16 stages, 0 in the store, 16 to train" in shown
    for word in ("BAN-3", "Ens*3", "another label-trained network", "Ens*3 against mean of three label-trained"):
        assert word in shown


def test_stock_launchers_do_each_job_by_itself(say: Say) -> None:
    shown = say("-m", *QUICK, "seed=0,1", "hydra/launcher=basic")
    assert shown.count("2 stages, 0 in the store, 2 to train") == 2


class TestUnion:
    def test_a_sweep_is_the_union_of_its_products(self) -> None:
        sweeps = {"one": {"a": "1,2", "b": 3}, "two": {"a": 2, "b": "3,4"}}
        jobs = expand(sweeps, [])
        assert sorted(map(sorted, jobs)) == [["a=1", "b=3"], ["a=2", "b=3"], ["a=2", "b=4"]]

    def test_the_command_line_wins(self) -> None:
        sweeps = {"one": {"method": "ban,dkpp", "seed": "range(16)"}}
        jobs = expand(sweeps, ["seed=7", "recipe.epochs=1,2"])
        assert len(jobs) == 4 and all("seed=7" in job for job in jobs)

    def test_a_scale_changes_every_product_unless_the_command_line_says_otherwise(self) -> None:
        sweeps, at = {"one": {"a": 1}, "two": {"a": 2, "b": 5}}, {"smoke": {"b": 6, "c": 7}}
        assert expand(sweeps, [], at) == [["a=1"], ["a=2", "b=5"]]
        jobs = expand(sweeps, ["scale=smoke", "c=8"], at)
        assert jobs == [["a=1", "b=6", "scale=smoke", "c=8"], ["a=2", "b=6", "scale=smoke", "c=8"]]

    @pytest.mark.parametrize(
        "given",
        [
            ["model=small_conv", "method=deep_mutual_learning", "+model@peers.a=wrn_10_1"],
            ["recipe=budget_images", "recipe@teacher.recipe=wrn"],
            ["model=mlp_16", "+model@teacher.models.a=mlp_256", "+model@teacher.models.b=mlp_256x2"],
        ],
    )
    def test_one_group_may_be_chosen_for_several_packages(self, given: list[str]) -> None:
        assert [sorted(job) for job in expand({}, [*given, "seed=0,1"])] == [
            sorted([*given, f"seed={seed}"]) for seed in (0, 1)
        ]

    def test_words_keep_their_order_and_none_is_lost(self) -> None:
        given = [
            "+method.terms.x={weight: 1}",
            "method.terms.x.weight=2",
            "+method.terms.x={name: a}",
            "~method.terms.y",
        ]
        assert expand({}, [*given, "seed=0,1"]) == [[*given, f"seed={seed}"] for seed in (0, 1)]
        assert expand({"one": {"+recipe.beta1": 1}}, ["recipe.beta1=2", "seed=1,2", "seed=3"]) == [
            ["++recipe.beta1=2", "seed=3"]
        ]

    def test_a_group_for_another_package_does_not_hide_the_sweeps(self) -> None:
        assert expand({"one": {"model": "wrn_28_2"}}, ["+model@peers.a=wrn_10_1"]) == [
            ["model=wrn_28_2", "+model@peers.a=wrn_10_1"]
        ]

    def test_without_sweeps_it_is_the_command_lines_product(self) -> None:
        assert len(expand({}, ["a=1,2", "b=range(3)"])) == 6


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("scale", ["budget", "digits", "smoke"])  # paper: tests/test_tables.py
def test_every_experiment_composes_at_every_scale(experiment: str, scale: str) -> None:
    given = [f"experiment={experiment}", f"scale={scale}"]
    sweeper = compose_config([f"experiment={experiment}"]).hydra.sweeper
    if scale == "digits" and scale not in sweeper["by_scale"]:
        with pytest.raises(UserError, match="has no stand-in on digits"):
            expand(sweeper["sweeps"], given, sweeper["by_scale"])
        return
    jobs = expand(sweeper["sweeps"], [*given, "seed=0"], sweeper["by_scale"])
    if scale == "budget" and experiment in ("demo", "demo_noise"):  # which is for CIFAR
        with pytest.raises(UserError, match=r"lower dataset\.train_size, or choose another scale"):
            compose_settings(jobs[0])
        return
    for job in jobs[:: max(1, len(jobs) // 4)]:  # some of each product
        settings = compose_settings(job)
        assert scale != "digits" or settings.dataset.name.startswith("digits")
        if scale == "smoke":  # nothing in the experiment outlives the scale
            assert settings.recipe.epochs == 1 and settings.dataset.train_size <= 500


def kind_of(path: Path) -> str:
    """The kind of data that a file of settings is for, which it may inherit from another file."""
    node = with_bases(path)
    if {"unroll", "min_count"} & node.keys():
        return "language"
    return node.get("kind", "tabular" if "features" in node else "images")


@pytest.mark.parametrize("group", ["dataset", "model", "method", "recipe", "teacher", "machine"])
def test_every_option_composes(group: str, tmp_path: Path) -> None:
    own = {
        "folder": tmp_path / "own",
        "arrays": tmp_path / "own.npz",
        "parquet": Path(__file__).parent / "images.parquet",
        "rows": Path(__file__).parent / "rows.csv",
    }
    pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    np.savez(own["arrays"], x_train=pixels, y_train=np.arange(200) % 2)
    for number, image in enumerate(pixels):
        (own["folder"] / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(own["folder"] / f"{number % 2}" / f"{number}.png")
    for path in (CONF / ("model" if group == "teacher" else group)).glob("*.yaml"):  # every network can teach
        kind = kind_of(path)
        companion = {"language": ["model=lstm"], "tabular": ["model=mlp_256"], "images": []}[kind]
        companion += ["recipe=digits"] if path.stem == "digits" and group == "dataset" else []
        if group == "dataset" and path.stem in own:
            companion += [f"dataset.path={own[path.stem]}", f"machine.data_dir={tmp_path}", "recipe.batch_size=8"]
            companion += ["dataset.target=variety", "dataset.missing=mean"] if path.stem == "rows" else []
        compose_settings([*companion, f"{group}={path.stem}"])


def test_names_in_the_files_are_their_file_names() -> None:
    for group in ("dataset", "model", "method", "recipe"):
        for path in (CONF / group).glob("*.yaml"):
            assert yaml.safe_load(path.read_text())["name"] == path.stem


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's settings, with a network of their own."""
    folder = tmp_path / "own"
    (folder / "model").mkdir(parents=True)
    network = "defaults: [small_conv]\nname: own_conv\ntitle: Own-Conv\nwidth: 4\n"
    (folder / "model" / "own_conv.yaml").write_text(network)
    return folder


def test_a_users_own_network_can_be_a_teacher(own: Path) -> None:
    assert compose_settings([*DIGITS, "teacher=own_conv"], own).teacher.model.name == "own_conv"
    with pytest.raises(UserError, match=r"there is no teacher 'own_conv': `ban help teacher` lists all \d+"):
        compose_settings([*DIGITS, "teacher=own_conv"])


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_the_command_knows_teachers_in_the_users_folder(sweep: list[str], own: Path, say: Say) -> None:
    plan = say("--config-dir", str(own), *sweep, *DIGITS, "teacher=own_conv", "dry_run=true")
    assert "Own-Conv" in plan and "Small-Conv" in plan


def test_a_users_machine_has_values_of_its_own(own: Path) -> None:
    (own / "local").mkdir()
    (own / "local" / "default.yaml").write_text("# @package _global_\nmachine: {outputs: /scratch/me}\n")
    (own / "local" / "slurm.yaml").write_text("partition: gpu\n")
    assert compose_settings(DIGITS, own).machine.outputs == Path("/scratch/me")
    assert compose_settings([*DIGITS, "machine.outputs=here"], own).machine.outputs == Path("here")
    assert compose_config(["hydra/launcher=slurm"], own).hydra.launcher.partition == "gpu"
    assert "partition" not in compose_config(DIGITS, own).hydra.launcher


def test_sentences_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """A log would break the paths in them."""
    console.print(f"Written: {'folder/' * 50}last.md")
    assert len(capsys.readouterr().out.splitlines()) == 1
