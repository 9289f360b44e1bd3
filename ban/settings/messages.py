"""Errors of Hydra, OmegaConf and PyYAML as one sentence that says what to do."""

import difflib
import re
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ban.errors import UserError
from ban.settings.files import keys_in
from ban.settings.hydra_versions import VERSION_BASE
from ban.settings.refusals import KNOWN, below, elsewhere, keys_of_files, shown
from ban.settings.types import RENAMED
from ban.wording import close

ANSWERS = {
    r"Ambiguous value for argument '([^']+)'": r"\1 names several values: sweep over them with `ban -m \1`.",
    r"An item is already at '([^']+)'": r"\1 is set already: leave out the +.",
    r"invalid literal for int\(\)": "a list is set as a whole: KEY=[A,B,C].",
    r"Could not delete from config. The value of '([^']+)' is (?s:.*) and not (.*)\.": r"\1 is not \2: use ~\1 alone.",
    r"Could not delete from config. '([^']+)' does not exist": r"there is no setting '\1' that could be removed.",
    r"Sweep parameters '([^'=]+)=interval": r"\1=interval(…) names no values: use `ban -m \1=A,B,C` or \1=range(…).",
    r"Sweep parameters '([^']+)' requires": r"\1 names several values: sweep over them with `ban -m \1`.",
    "Config group override must be a string": "a file of settings is chosen by its name, for example recipe=wrn.",
    r"Hydra (launcher|sweeper) is not configured": r"hydra.\1 is null: choose a file with hydra/\1=NAME.",
    r"(?:Invalid plugin|Unknown plugin class :) '([^']*)'": (
        r"\1 is no plugin: choose a file with hydra/launcher=NAME or hydra/sweeper=NAME."
    ),
}
"""Pattern in a message of Hydra or OmegaConf → the sentence that replaces it."""

REWORDED = {
    r"^\w+ raised while resolving interpolation: (?:Error trying to access \S+ )?": "",
    r'^"(Environment variable .*)"': r"\1",
    r"node `([^`]+)` is not a container and thus cannot contain `([^`]+)`": r"\1 has no \2",
}
"""Pattern of what only programmers understand in a message of OmegaConf → what stands there instead."""


FEW = 12
"""More choices than this are not listed in a sentence."""


def is_composition_error(error: Exception) -> bool:
    """Whether Hydra, OmegaConf or PyYAML refuse a setting, so that the error is not one of this program."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    package = frames[-1].f_globals.get("__name__", "").partition(".")[0] if frames else ""
    return isinstance(error, HydraException | OmegaConfBaseException) or package in ("hydra", "omegaconf", "yaml")


def explain(error: Exception, conf: Path) -> str:
    """A refusal of Hydra or OmegaConf as one sentence. `conf` is the folder of the YAML files."""
    text = str(error).strip()
    match error:
        case HydraException(__cause__=UserError() as refusal):  # of a launcher or a sweeper that Hydra makes
            return str(refusal)
        case yaml.YAMLError():
            return f"a file is not YAML: {' '.join(text.split())}."
        case MissingConfigException() if error.options:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            return f"there is no {group} '{name}': {_choose(group, name, error.options)}"
        case OverrideParseException():
            return _explain_syntax(error.override or "", text)
        case _:
            return _explain_text(error, text, conf)


def _choose(group: str, name: str, options: Sequence[str]) -> str:
    """What may be meant by a name of a file that there is not."""
    library = "; networks of a library: model=torchvision or model=timm, and model.architecture=NAME" * (
        group == "model"
    )
    if meant := close(name, options):
        return f"did you mean {group}={meant}? `ban help {group}` lists all{library}."
    if len(options) <= FEW:
        return f"choose one of {', '.join(sorted(options))}."
    return f"`ban help {group}` lists all {len(options)}{library}."


def _explain_text(error: Exception, text: str, conf: Path) -> str:
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return _explain_unknown(unknown[1], conf)
    if wrong := re.match(r"Error merging override ([^=\s]+)(\S*)", text):
        if re.search(r"Cannot merge (DictConfig|ListConfig|incompatible container)", f"{error.__cause__}"):
            return f"{wrong[1]} must be {'a list [A,B]' if wrong[2].startswith('={') else 'a mapping {KEY: VALUE}'}."
        return f"{wrong[1]}{wrong[2]} is not possible: {str(error.__cause__).splitlines()[0]}."
    for pattern, answer in ANSWERS.items():
        if found := re.search(pattern, text):
            return found.expand(answer)
    for pattern, answer in REWORDED.items():
        text = re.sub(pattern, answer, text)
    first, *others = [line.strip().rstrip(":.") for line in text.splitlines()] or [type(error).__name__]
    key = next((line.removeprefix("full_key: ") for line in others if line.startswith("full_key: ")), None)
    if missing := re.match("Interpolation key '([^']+)' not found", first):
        key = key and re.sub(r"^teacher\.(?=(model|recipe)\.)", "", key)  # the teacher has it from the student
        parts = dict.fromkeys(name.partition(".")[0] for name in (key or "", missing[1]) if "." in name)
        other = " or ".join(f"another {part}" for part in parts)
        return f"{key or 'a setting'} needs {missing[1]}, which is not there: choose {other or 'another file'}."
    return f"{key}: {first}." if key else ": ".join([first, *others[:1]]) + "."


def _explain_syntax(override: str, text: str) -> str:
    written = shown(override)
    if reason := re.search(r"while evaluating '.*': (.*)", text):
        return f"'{written}' cannot be read: {reason[1]}.{_quoted(override)}"
    if "=" not in override:
        return f"'{written}' is not KEY=VALUE. A list has no spaces: method=ban,dkpp."
    if ends := re.search(r"no viable alternative at input '([\[{])|input '<EOF>'", text):
        fault = f"its {ends[1]} is not closed" if ends[1] else "it ends after a comma"
        return f"'{written}' cannot be read: {fault}. Lists have no spaces: method=ban,dkpp."
    sign = _sign_at_fault(override, text)
    return f"'{written}' cannot be read because of the sign {sign}.{_quoted(override)}"


def _sign_at_fault(override: str, text: str) -> str:
    """What the parser stopped at: it names the sign, or points to it from the line below."""
    if named := re.search(r"input '(.+?)' expecting|token recognition error at: '(.)", text):
        return named[1] or named[2]
    pointer = re.search(r"^LexerNoViableAltException: (?s:.*?)\n( *)\^", text, re.MULTILINE)
    place = len(pointer[1]) - len("LexerNoViableAltException: ") if pointer else 0
    return shown(override[place : place + 1])


def _quoted(override: str) -> str:
    """The override with its value as a text, ready for the shell."""
    key, _, value = override.partition("=")
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    word = f'{key}="{escaped}"'
    try:
        read = OverridesParser.create().parse_override(word).value()
    except HydraException:
        return ""
    return f" If the value is text, quote it twice: {shlex.quote(word)}" if read == value else ""


def _explain_unknown(key: str, conf: Path) -> str:
    GlobalHydra.instance().clear()  # the failed command's, if it got that far
    with initialize_config_dir(str(conf), **VERSION_BASE):
        known = [*KNOWN, *keys_in(OmegaConf.to_container(compose("config"), resolve=False))]
    known += [f"{folder.relative_to(conf)}" for folder in conf.rglob("*") if folder.is_dir()]
    if key in known:
        return f"{key} has no such option yet: add it with +{key}.OPTION=VALUE."
    renamed = ".".join(RENAMED.get(step, step) for step in key.split("."))
    if renamed in known:
        return f"there is no setting '{key}': did you mean '{renamed}'?"
    if key in keys_of_files(key):
        return f"there is no {key} in this file: add it with +{key}=VALUE."
    if "@" in key:
        place = key.partition("@")[2]
        return f"no file can be chosen for {place} here: set {place}.KEY=VALUE."
    near = [name for name in known if name.partition(".")[0] == key.partition(".")[0]]  # of the same part
    if found := below(key) or _close(key, near) or elsewhere(key) or _close(key, known):
        return f"there is no setting '{key}': {found}"
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent] or [n for n in known if "." not in n]
    return f"there is no setting '{key}': choose one of {', '.join(dict.fromkeys(siblings))}."


def _close(key: str, names: Sequence[str]) -> str | None:
    matches = difflib.get_close_matches(key, names, n=1)
    return f"did you mean '{matches[0]}'?" if matches else None
