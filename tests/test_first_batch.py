"""Equal signatures mean equal training: settings that are written differently, and settings that differ."""

import hashlib
from functools import cache
from itertools import combinations
from random import Random

import pytest
import torch
from helpers import DIGITS

from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.training import build

SPELLINGS = {
    "seed": [["seed=0"], ["seed=+0"], ["seed=-0"], ["++seed=0"], ["seed=7", "seed=0"]],
    "another seed": [["seed=10"], ["seed=1_0"]],
    "a split": [["dataset.split_seed=3"], ["dataset.split_seed=+3"]],
    "the seed's split": [["dataset.split_seed=1"], ["dataset.split_seed=${generations}"]],
    "size": [["dataset.train_size=90"], ["dataset.train_size=9_0"]],
    "noise": [["dataset.label_noise=0.5"], ["dataset.label_noise=5e-1"], ["dataset.label_noise=.5"]],
    "labels": [["dataset.labelled=50"], ["++dataset.labelled=50"]],
    "batches": [["recipe.batch_size=20"], ["recipe.batch_size=2_0"]],
    "padding": [["dataset.augmentation.pad=2"], ["dataset.augmentation={pad: 2}"]],
    "flips": [["dataset.augmentation.flip=true"], ["dataset.augmentation.flip=True"]],
    "scale": [["dataset.augmentation.std=[8.0]"], ["dataset.augmentation.std=[8e0]"]],
    "whitening": [["dataset.whitening=zca"], ["dataset.whitening='zca'"]],
}
"""Settings that change the first batch → several ways to write them. The first seed is the default."""


@cache
def trained(words: tuple[str, ...]) -> tuple[str, str]:
    """The signature of a training on labels, and a hash of its first batch."""
    settings = compose_settings([*DIGITS, "method=labels", *words])
    [stage] = lineage(settings)
    batch = next(build.data(stage, settings.machine, torch.device("cpu")).epoch(stage.stream_key, 0))
    content = b"".join(tensor.numpy().tobytes() for tensor in (*batch.views, batch.targets))
    return stage.signature, hashlib.sha256(content).hexdigest()


def test_every_spelling_of_a_setting_has_one_signature_and_each_setting_its_own() -> None:
    outcomes = {name: {trained(tuple(words)) for words in spellings} for name, spellings in SPELLINGS.items()}
    assert all(len(found) == 1 for found in outcomes.values()), outcomes
    signatures, batches = zip(*(found.pop() for found in outcomes.values()), strict=True)
    assert len({*signatures}) == len({*batches}) == len(SPELLINGS)


def test_equal_signatures_mean_equal_first_batches() -> None:
    random = Random(0)
    names = [random.sample([*SPELLINGS], random.randrange(1, 4)) for _ in range(10)]
    lists = [
        tuple(word for name in chosen for word in random.choice(SPELLINGS[name])) for chosen in names for _ in "ab"
    ]
    for first, second in combinations(map(trained, lists), 2):
        assert first[0] != second[0] or first[1] == second[1]
    assert [*map(trained, lists[::2])] == [*map(trained, lists[1::2])]  # the same settings, written differently


@pytest.mark.parametrize("value", ["00", "01", "0x1", "1.0", "1e0", "true", "'1'", '"1"', "[1]", "one", "1 0", "٣"])
@pytest.mark.parametrize("key", ["seed", "dataset.split_seed", "dataset.train_size", "teacher.seed"])
def test_a_whole_number_has_one_meaning_or_none(key: str, value: str) -> None:
    with pytest.raises(UserError):
        compose_settings([*DIGITS, f"{key}={value}"])
