"""Every setting and every constructor argument in `conf/`, with every kind of wrong value: one sentence, no traceback.

The cases are generated, so a new setting or class is covered when its file exists.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from helpers import DIGITS, TEXT
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.checks import check, validated
from ban.settings.compose import CONF, compose_config, freeze
from ban.settings.messages import explain, is_composition_error
from ban.settings.schema import Settings
from ban.training.arguments import check_arguments

IMAGES = ("dataset=cifar10", "dataset.labelled=4000")
CONFIGS = {
    "kd": ("method=kd", *DIGITS),
    "fitnets": ("method=fitnets", "model=wrn_10_2", "dataset=cifar100"),
    "fsp": ("method=fsp", "model=pre_resnet_1001", "recipe=budget_images", "dataset=cifar100"),
    "mean_teacher": ("method=mean_teacher", "model=conv_large", "recipe=mean_teacher", *IMAGES),
    "temporal_ensembling": ("method=temporal_ensembling", "model=densenet_40_12", "recipe=laine_aila", *IMAGES),
    "deep_mutual_learning": (*DIGITS, "method=deep_mutual_learning", "model=shallow_small", "+model@peers.a=wrn_10_1"),
    "tolerant": ("method=tolerant", "model=ban_wrn_1_1", "dataset=cifar10"),
    "dkpp": ("method=dkpp", "model=densenet_90_60_depth_half", "recipe=demo_noise", "dataset=digits"),
    "cwtm": ("method=cwtm", "model=lstm_small", "dataset=ptb", "recipe=lstm"),
    "ban_l": ("method=ban_l", "model=cnn_lstm_small", "dataset=text", f"dataset.path={TEXT}", "recipe=cnn_lstm"),
    "logit_regression": ("method=logit_regression", "model=mlp_16", "dataset=wine", "recipe=tabular"),
    "munge": ("method=munge", "model=mlp_256", "dataset=breast_cancer", "recipe=tabular"),
    "model_compression": ("method=model_compression", "model=mlp_256x2", "dataset=digits_features"),
}
"""Together they name every class in `conf/` with every argument. The first is tried whole, the others without `teacher`
and `machine`."""
WRONG = (
    *(
        "foo",
        "no",
        "off",
        "00",
        "''",
        "' '",
        "'0.2'",
        '"a\nb"',
        "null",
        "true",
        "nan",
        "inf",
        "-inf",
        "-1",
        "-0.5",
        "1.5",
    ),
    *("100000000000000000000", "1e400", "[]", "[foo]", "[null]", "[nan]", "[[]]", "[-1]", "{a:1}", "{_target_:foo}"),
    *("{_target_:ban.terms}", "{_target_:ban.models.MLP}", "foo.bar.Baz", "???"),
)
INTERPOLATIONS = ("${nosuch}", "${.nosuch}", "${oc.env:NOSUCH}", "${nosuch:1}", "${dataset}", "${recipe.epochs.foo}")
NEGATIVE = {"seed", "split_seed", "weight", "value", "start", "end", "mean"}
"""Numbers that may be negative."""
NULLABLE = {"stem", "labelled", "fused", "nesterov"}
PARSER = OverridesParser.create()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_value_is_one_sentence(name: str) -> None:
    config, plain = _composed(CONFIGS[name])
    values = [_parsed(f"x={text}").value() for text in WRONG]
    tried, unanswered = 0, list[str]()
    for path, given in _settings(plain):
        if name != "kd" and path[0] in ("teacher", "machine"):
            continue
        cases = [
            (f"={value!r}", _is_wrong(path, given, value), partial(_replaced, plain, path, value)) for value in values
        ]
        words = [] if path[0] == "teacher" else _words(path)  # a teacher is composed as the student is
        cases += [(word, _must_fail(word), partial(_overridden, config, word)) for word in words]
        for case, wrong, make in cases:
            tried += 1
            if fault := _fault(make, wrong):
                unanswered.append(f"{'.'.join(path)} {case}: {fault}")
    assert not unanswered, "\n".join([f"{len(unanswered)} of {tried}", *unanswered])
    assert tried > 300


def _composed(words: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Without Hydra's own part: as Hydra composes it, and with its interpolations resolved."""
    config = compose_config(words)
    own = OmegaConf.create({key: value for key, value in config.items() if key != "hydra"})
    freeze(own)  # measures the text
    OmegaConf.set_struct(own, True)
    plain: Any = OmegaConf.to_container(own, resolve=True)
    return own, plain


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

    return check(validated(Settings, changed(plain, path)))


def _overridden(config: DictConfig, word: str) -> Settings:
    config = copy.deepcopy(config)
    ConfigLoaderImpl._apply_overrides_to_config([_parsed(word)], config)  # as Hydra does, without composing again
    return freeze(config)


def _fault(make: Callable[[], Settings], wrong: bool) -> str | None:
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
    return None if message.isprintable() and 10 < len(message) < 600 else f"answered with {message!r}"


def _is_wrong(path: Sequence[str], given: Any, value: Any) -> bool:
    """Whether a value must be refused in place of the given one."""
    name = path[-1]
    if value is None:
        return isinstance(given, bool | int | float) and name not in NULLABLE
    match given:
        case bool():
            return not isinstance(value, bool)
        case int() | float():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return True
            return (value < 0 and name not in NEGATIVE) or (isinstance(given, int) and value > 2**63)
        case str():
            return not isinstance(value, str) or not value.strip() or "\n" in value
        case list():
            return not isinstance(value, list)
        case dict():
            return not isinstance(value, dict)
        case _:
            return False
