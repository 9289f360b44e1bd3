"""Every setting and every constructor argument in `conf/`, with every kind of wrong value: one sentence, no traceback.

The cases are generated, so a new setting or class is covered when its file exists.
"""

import atexit
import copy
import math
import random
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import DIGITS, TEXT, Say, ban, files, with_bases
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings import compose
from ban.settings.checks import check, validated
from ban.settings.compose import CONF, compose_config, compose_settings, freeze
from ban.settings.messages import explain, is_composition_error
from ban.settings.schema import LocalLauncherSettings, Settings, SlurmLauncherSettings
from ban.settings.types import Part
from ban.settings.weights import with_weights
from ban.training.arguments import check_arguments

CACHE = Path(tempfile.mkdtemp(prefix="ban-test-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
ROWS = (f"dataset.path={Path(__file__).parent / 'rows.csv'}", "dataset.target=variety", "dataset.missing=mean")
OWN = (f"dataset.path={Path(__file__).parent / 'images.parquet'}", f"machine.data_dir={CACHE}", "recipe.batch_size=8")
IMAGES = ("dataset=cifar10", "dataset.labelled=4000")
FIELD = tuple(
    f"+method.terms.{name}={{_target_: ban.terms.{name}, weight: 1.0{options}}}"
    for name, options in {
        "SmoothedLabel": ", smoothing: 0.1",
        "VirtualTeacher": ", confidence: 0.99, temperature: 20.0, form: code",
        "DarkKnowledge": "",
        "DecoupledProbabilities": ", target: 1.0, others: 8.0, temperature: 4.0",
        "Attention": ", layers: [stage1]",
        "Similarities": ", layers: [stage1]",
        "Selectivity": ", layers: [stage1]",
        "Neighbours": ", layers: [pooled]",
        "Relations": ", layers: [pooled], distance: 25.0, angle: 50.0",
        "Congruence": ", layers: [pooled], width: 8",
        "Contrast": ", layer: pooled, width: 8, negatives: 8, temperature: 0.07, momentum: 0.5",
        "ShallowClassifiers": ", alpha: 0.3, temperature: 3.0, features: 0.03",
        "Correlations": ", inter: 1.0, intra: 1.0, temperature: 1.0",
    }.items()
)
WARM_UP = "method.terms.label.weight={_target_: ban.schedules.WarmUp, value: 1.0, length: 0.5}"
PEERS = ("+model@peers.a=shufflenet_v1", "+model@peers.b=shufflenet_v2", "+model@peers.c=resnet50")
CONFIGS = {
    "kd": ("method=kd", *DIGITS),
    "fitnets": ("method=fitnets", "model=wrn_10_2", "dataset=cifar100"),
    "hint": ("method=hint", "model=wrn_10_2", "dataset=cifar100"),
    "fsp": ("method=fsp", "model=pre_resnet_1001", "recipe=budget_images", "dataset=cifar100"),
    "mean_teacher": ("method=mean_teacher", "model=conv_large", "recipe=mean_teacher", *IMAGES),
    "temporal_ensembling": ("method=temporal_ensembling", "model=densenet_40_12", "recipe=laine_aila", *IMAGES),
    "deep_mutual_learning": ("method=deep_mutual_learning", *DIGITS, "model=shallow_small", "+model@peers.a=wrn_10_1"),
    "pi_model": ("method=pi_model", *DIGITS, "recipe=smoke_images", "recipe.batch_size=32"),
    "tolerant": ("method=tolerant", "model=ban_wrn_1_1", "dataset=cifar10"),
    "dkpp": ("method=dkpp", "model=densenet_90_60_depth_half", "recipe=demo_noise", "dataset=digits"),
    "cwtm": ("method=cwtm", "model=lstm_small", "dataset=ptb", "recipe=lstm"),
    "ban_l": ("method=ban_l", "model=cnn_lstm_small", "dataset=text", f"dataset.path={TEXT}", "recipe=cnn_lstm"),
    "logit_regression": ("method=logit_regression", "model=mlp_16", "dataset=wine", "recipe=tabular"),
    "kd_torchvision": ("method=kd", *DIGITS, "model=torchvision"),
    "kd_timm": ("method=kd", *DIGITS, "model=timm"),
    "labels": ("method=labels", "model=small_conv", "dataset=parquet", "recipe=photos", *OWN),
    "munge": ("method=munge", "model=mlp_256", "dataset=breast_cancer", "recipe=tabular"),
    "cs_kd": ("method=cs_kd", *DIGITS, "recipe=tian", "recipe.batch_size=8", "model=resnet8", "+model@peers.a=vgg8"),
    "ft": ("method=ft", "model=wrn_10_2", "dataset=cifar100"),
    "noisy_student": ("method=noisy_student", *DIGITS, "recipe=digits", "model=small_conv"),
    "dlb": ("method=dlb", *DIGITS, "recipe=digits", "model=small_conv"),
    "benchmark": ("method=vid", "model=mobilenet_v2", "dataset=cifar100", *PEERS),
    "field": ("method=prior", *DIGITS, *FIELD, WARM_UP),
    "rows": ("method=labels", "model=mlp_16", "dataset=rows", "recipe=tabular", *ROWS),
    "model_compression": ("method=model_compression", "model=mlp_256x2", "dataset=digits_features"),
}
"""Together they name every class in `conf/` with every argument. The first is tried whole, the others in `PARTS`."""
PARTS = ("model", "method", "recipe", "dataset", "peers")
WRONG = (
    *("foo", "no", "off", "00", "''", "' '", "'0.2'", '"a\nb"', "null", "true", "nan", "inf", "-inf"),
    *("-1", "-0.5", "1.5", "100000000000000000000", "1e400", "[]", "[foo]", "[null]", "[nan]", "[[]]", "[-1]", "{a:1}"),
    *("{_target_:foo}", "{_target_:ban.terms}", "{_target_:ban.models.MLP}", "foo.bar.Baz", "???"),
)
INTERPOLATIONS = ("${nosuch}", "${.nosuch}", "${oc.env:NOSUCH}", "${nosuch:1}", "${dataset}", "${recipe.epochs.foo}")
NEGATIVE = {"seed", "split_seed", "weight", "value", "start", "end", "mean"}
"""Numbers that may be negative."""
LARGE = {"loss_scale", "weight"}
FRACTIONAL = {*LARGE, "mean", "std", "checkpoint_seconds", "log_seconds"}
"""Numbers that files may give without a decimal point."""
OPEN = {"files", "skipped", "directives", "left_out", "gaps", "mixed"}
"""Mappings whose keys are any texts."""
CHOICES = {
    "precision",
    "pad_mode",
    "device",
    "source",
    "select",
    "order",
    "whitening",
    "distribution",
    "form",
    "over",
    "view",
}
"""Texts of which there are a few."""
NULLABLE = {"stem", "checkpointing", "as_published"}
SWITCHES = {"checkpointing", "compile"}
"""Settings that are true, false or auto."""
NAMELESS = ("a list is set as a whole", "Unsupported interpolation type", "Interpolation to parent node")
"""Answers to what Hydra and OmegaConf refuse without saying where."""
PARSER = OverridesParser.create()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_value_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, plain = _composed(CONFIGS[name])
    values = [_parsed(f"x={text}").value() for text in WRONG]
    draw = random.Random(name)
    tried, faults = 0, list[str]()
    for path, given in _settings(plain):
        if name != "kd" and path[0] not in PARTS:
            continue
        cases = [
            (repr(value), _is_wrong(path, given, value), partial(_replaced, plain, path, value)) for value in values
        ]
        words = draw.sample(_words(path), 4) if name == "kd" and path[0] != "teacher" else []
        cases += [(word, _must_fail(word), partial(_overridden, config, word)) for word in words]
        tried += len(cases)
        found = [(case, _fault(make, path, wrong)) for case, wrong, make in cases]
        faults += [f"{'.'.join(path)} {case}: {fault}" for case, fault in found if fault]
    assert not faults, "\n".join([f"{len(faults)} of {tried}", *faults])
    assert tried > 500
    assert not files(tmp_path)


def test_the_configurations_above_name_every_argument_in_conf() -> None:
    files = [path for group in PARTS[:-1] for path in (CONF / group).glob("*.yaml")]
    everything = {pair for path in files for pair in _arguments(with_bases(path))}
    covered = {pair for words in CONFIGS.values() for pair in _arguments(_composed(words)[1])}
    assert len(everything) > 150
    assert not everything - covered, sorted(everything - covered)


def _arguments(tree: Any) -> Iterator[tuple[str, str]]:
    """Each class with the names of its arguments."""
    if isinstance(tree, Mapping):
        yield from ((tree["_target_"], key) for key in tree if "_target_" in tree and key != "defaults")
        for value in tree.values():
            yield from _arguments(value)


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_a_wrong_option_of_a_launcher_is_one_sentence(name: str) -> None:
    schema: type[Part] = {"local": LocalLauncherSettings, "slurm": SlurmLauncherSettings}[name]
    file = with_bases(CONF / "hydra" / "launcher" / f"{name}.yaml")
    plain = {key: value for key, value in file.items() if key not in ("_target_", "defaults")}
    for key, given in plain.items():
        for value in [_parsed(f"x={text}").value() for text in WRONG]:
            try:
                validated(schema, {**plain, key: value}, "hydra.launcher")
            except UserError as error:
                assert key in str(error) and str(error).isprintable()
            else:
                countable = isinstance(value, int | float | list) and not isinstance(value, bool)
                assert countable or not _is_wrong((key,), given, value), f"{key}={value!r}"


SAMPLE = (
    ("model.width=0", "model.width is 0; it must be greater than or equal to 1."),
    ("+model.classes=7", "there is no setting 'model.classes': did you mean 'dataset.classes'?"),
    ("+method.temperature=20", "did you mean 'method.terms.teacher.temperature'?"),
    ("method.temperature=20", "did you mean 'method.terms.teacher.temperature'?"),
    ("temperature=20", "did you mean 'method.terms.teacher.temperature'?"),
    ("method.terms.teacher.temperature=20", "add it with +method.terms.teacher.temperature=VALUE."),
    ("+recipe.optimizer.momentm=1", "did you mean 'recipe.optimizer.momentum'?"),
    ("launcher=slurm", "there is no setting 'launcher': did you mean 'hydra/launcher'?"),
    (
        "augmentation@dataset.augmentation=crop",
        "no file can be chosen for dataset.augmentation here: set dataset.augmentation.KEY=VALUE.",
    ),
    ("+recipe.lr=1", "did you mean 'recipe.optimizer.lr'?"),
    ("+recipe.label_smoothing=0.1", "there is no setting 'recipe.label_smoothing': choose one of name,"),
    ("+recipe.steps_per_epoch=1000", "is more than the 3 steps of a whole epoch (100 images, 32 in each step)"),
    ("dataset.augmentation.flip=no", "dataset.augmentation.flip is the text 'no'; it must be true or false."),
    ("dataset.augmentation.std=[inf]", "dataset.augmentation.std.0 is inf; it must be a finite number."),
    ("dataset.augmentation.mean=[0,0]", "must have one value for each of the images' channels: 1."),
    ("+dataset.files={a:b}", "dataset.files has no effect: ban.data.bundled.digits does not take it."),
    ("+model.checkpointing=true", "model.checkpointing has no effect: Small-Conv cannot recompute its activations."),
    ("recipe.optimizer.momentum=-1", "torch.optim.SGD: Invalid momentum value: -1"),
    ("recipe.schedule._target_=ban.losses.hint_distance", "recipe.schedule has no student, which"),
    ("recipe.schedule._target_=os.getcwd", "recipe.schedule is os.getcwd, but it must be a schedule"),
    (
        "method.teacher._target_=ban.terms.Label",
        "method.teacher is ban.terms.Label, but it must be a teacher: a Teacher.",
    ),
    ("method.terms.teacher._target_=ban.terms.Nothing", "names ban.terms.Nothing, which cannot be imported: "),
    ("~method.terms.teacher", "method.terms is {}; it must have 1 or more entries."),
    ("machine.outputs=", "machine.outputs is empty (is a variable of the shell unset?); name a folder."),
    ("machine.outputs='a\nb'", "machine.outputs must be one line of printable characters."),
    ("machine.data_dir='~nobody_of_that_name'", "machine.data_dir names the home folder of an unknown user."),
    ("generations=99999999", "generations is 99999999; it must be less than or equal to 1000."),
    ("recipe.optimizer.lr=interval(0,1)", "recipe.optimizer.lr=interval(…) names no values: use `ban -m"),
    ("++dataset.shape.foo=1", "a list is set as a whole: KEY=[A,B,C]."),
    ("+hydra.launcher.foo=1", "there is no setting 'hydra.launcher.foo': choose one of devices,"),
    ("hydra.launcher=null", "hydra.launcher has no _target_: choose a file with hydra/launcher=local."),
)
"""A setting → part of the answer."""
SWEEPS = (
    ("seed=range(0,1,0)", "seed=range(0,1,0) names no values to sweep over: use seed=A,B,C or seed=range(START,STOP)."),
    ("seed=range(0,99999999999)", "the sweep has more than 100000 jobs."),
    ("recipe.optimizer.lr=interval(0,1)", "recipe.optimizer.lr=interval(0,1) names no values to sweep over"),
    ("hydra.launcher.stages_per_device=1.5", "hydra.launcher.stages_per_device is 1.5; it must be an integer."),
    ("hydra.launcher=null", "hydra.launcher is null: choose a file with hydra/launcher=NAME."),
    ("hydra.sweeper._target_=foo", "foo is no plugin: choose a file with hydra/launcher=NAME or hydra/sweeper=NAME."),
    ("hydra.sweeper.sweeps=foo", "hydra.sweeper.sweeps is foo; it must be a mapping"),
    ("+hydra.sweeper.foo=1", "there is no setting 'hydra.sweeper.foo': choose one of sweeps, by_scale."),
)


@pytest.mark.parametrize(
    ("words", "answer"), [*((["--", word], answer) for word, answer in SAMPLE), *((["-m", w], a) for w, a in SWEEPS)]
)
def test_the_command_refuses_it_before_anything_is_written(
    words: Sequence[str], answer: str, say: Say, tmp_path: Path
) -> None:
    arguments = [*(["-m"] if words[0] == "-m" else []), *DIGITS, words[1]]
    with pytest.raises(SystemExit) as stopped:
        say(*arguments)
    assert answer in str(stopped.value) and str(stopped.value).startswith("ban: ")
    assert not files(tmp_path)


def test_the_command_exits_with_one_line(tmp_path: Path) -> None:
    for word in random.Random(0).sample([word for word, _ in SAMPLE], 2):
        done = ban(*DIGITS, word, cwd=tmp_path, expect=1)
        assert done.stderr.startswith("ban: ") and done.stderr.count("\n") == 1 and not done.stdout
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("value", "sign"),
    [("a=b", "="), ("~/o", "~"), ("ümläut", "ü"), ("a;b", ";"), ('a"b', '"'), ("a)b", ")"), ("a{b", "{")],
)
def test_a_sign_that_must_be_quoted_is_named_with_the_quoted_word(value: str, sign: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_settings([*DIGITS, f"machine.outputs={value}"])
    message = str(refused.value)
    assert f"cannot be read because of the sign {sign}. " in message
    [word] = shlex.split(message.partition("quote it twice: ")[2])
    assert compose_settings([*DIGITS, word]).machine.outputs == Path(value).expanduser()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["~x", *DIGITS], "there is no setting 'x' that could be removed."),
        (["stages", "export", "abc", "lr=0.1.ban"], "no signature begins with abc"),
        (["stages", "import", "lr=0.1.ban"], "lr=0.1.ban"),
        (
            ["stages", "import", "~lr.ban", "machine.threads=x"],
            "machine.threads is the text 'x'; it must be",
        ),
    ],
)
def test_settings_are_told_from_names_of_files(words: Sequence[str], answer: str, say: Say) -> None:
    with pytest.raises(SystemExit, match=re.escape(answer)):
        say(*words)


def _composed(words: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Without Hydra's own part: as Hydra composes it, and as `freeze` validates it."""
    config = compose_config(words)
    own = OmegaConf.create({key: value for key, value in config.items() if key != "hydra"})
    OmegaConf.set_struct(own, True)
    seen: list[Any] = []

    def seen_too(schema: type[Part], node: Any, *where: str) -> Part:
        seen.append(node)
        return validated(schema, node, *where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "validated", seen_too)
        check_arguments(freeze(config))
    check(validated(Settings, seen[-1]))  # else every value would be refused for the same reason
    return own, seen[-1]


def _settings(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        yield (*path, key), value
        if isinstance(value, Mapping):
            yield from _settings(value, (*path, key))


def _words(path: Sequence[str]) -> list[str]:
    """What else can be written with a setting's name."""
    name = ".".join(path)
    others = [
        f"~{name}",
        f"~{name}=foo",
        f"+{name}=foo",
        f"++{name}.foo=1",
        f"+{name}.zzz=1",
        f"{name}=",
        f"{name}={{}}",
    ]
    return [*others, *(f"++{name}={text}" for text in INTERPOLATIONS)]


def _must_fail(word: str) -> bool:
    """Whether a key that nobody knows, or a reference to nothing, is in it."""
    return any(mark in word for mark in ("zzz", "nosuch", "NOSUCH"))


def _parsed(word: str) -> Override:
    return PARSER.parse_override(word)


def _replaced(plain: Mapping[str, Any], path: Sequence[str], value: Any) -> Settings:
    def changed(node: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
        return {**node, path[0]: changed(node[path[0]], path[1:]) if path[1:] else value}

    return with_weights(check(validated(Settings, changed(plain, path))))


def _overridden(config: DictConfig, word: str) -> Settings:
    config = copy.deepcopy(config)
    ConfigLoaderImpl._apply_overrides_to_config([_parsed(word)], config)  # as Hydra does, without composing again
    return freeze(config)


def _fault(make: Callable[[], Settings], path: Sequence[str], wrong: bool) -> str | None:
    """Why the answer to settings is not right; None: they are refused with a sentence, or are settings of stages."""
    try:
        settings = make()
        check_arguments(settings)
        assert all(stage.signature and stage.regime_title for stage in lineage(settings))
    except UserError as error:
        message = str(error)
    except Exception as error:
        if not is_composition_error(error):
            return f"{type(error).__name__}: {error}"
        message = explain(error, CONF)
    else:
        return "accepted" if wrong else None
    return None if _is_a_sentence(message) and _names(message, path) else f"answered with {message!r}"


def _is_a_sentence(message: str) -> bool:
    """Whether it is a single one, without words of Python or of libraries."""
    strange = re.search(
        r"Traceback|Exception|\w+Error\b|NoneType|pydantic|[Oo]mega[Cc]onf|raised while|[.?!] [A-Z]", message
    )
    return message.isprintable() and 20 < len(message) < 600 and message[-1] in ".?" and not strange


def _names(message: str, path: Sequence[str]) -> bool:
    """Whether it says which setting it is about: the changed one, or one that does not fit to it."""
    name, parent, last = ".".join(path), ".".join(path[:-1]), path[-1]
    if message.startswith(NAMELESS) or f"{path[0]}=" in message:
        return True
    return name in message or (parent in message and (last in message or last == "_target_"))


def _is_wrong(path: Sequence[str], given: Any, value: Any) -> bool:
    """Whether a value must be refused in place of the given one."""
    name = path[-1]
    if value is None:  # of other settings, the default
        return isinstance(given, bool | int | float) and path[0] == "model" and name not in NULLABLE
    match given:
        case str() if name in SWITCHES:
            return not isinstance(value, bool)
        case bool():
            return not isinstance(value, bool)
        case int() | float():
            return _is_no_number(name, given, value)
        case str():
            among = name == "_target_" or name in CHOICES
            return among or not isinstance(value, str) or not value.strip() or "\n" in value
        case list():
            return not isinstance(value, list) or any(_is_wrong(path, given[0], each) for each in value if given)
        case dict():
            return _is_no_mapping(name, value)
        case _:
            return False


def _is_no_number(name: str, given: float, value: Any) -> bool:
    if value is True and name == "channels":  # a choice of 1 and 3, and true is 1
        return False
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value != math.inf or name != "local_variance"
    fractional = isinstance(given, int) and name not in FRACTIONAL and not float(value).is_integer()
    large = isinstance(given, int) and name not in LARGE and value > 2**63
    return fractional or large or (value < 0 and name not in NEGATIVE)


def _is_no_mapping(name: str, value: Any) -> bool:
    """Nor one that could be meant: the mappings in `WRONG` are not."""
    if name in OPEN:
        return not isinstance(value, Mapping)
    if name == "data" and value == {"_target_": "ban.models.MLP"}:  # only a call shows that it makes no data
        return False
    return name != "weight" or isinstance(value, bool) or not isinstance(value, int | float)
