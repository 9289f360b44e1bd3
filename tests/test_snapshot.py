"""The code that a queued job runs."""

import sys
from pathlib import Path

import pytest
from helpers import plan

from ban.launch import snapshot as code
from ban.store.store import Store


def test_the_users_modules_are_frozen_with_all_that_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "package").mkdir(parents=True)
    (own / "package" / "__init__.py").write_text("")
    (own / "package" / "parts.py").write_text("from ban.models import SmallConv\n")
    (own / "theirs.py").write_text("from package.parts import SmallConv\n\n\nclass Theirs(SmallConv):\n    pass\n")
    monkeypatch.syspath_prepend(own)
    stages, store = plan("method=labels", "model._target_=theirs.Theirs"), Store(tmp_path / "outputs")
    frozen = code.freeze(stages, store)
    assert (frozen / "theirs.py").read_text() == (own / "theirs.py").read_text()
    assert (frozen / "package" / "parts.py").exists() and (frozen / "ban" / "cli.py").exists()
    assert not (frozen / "torch").exists() and not (frozen / "numpy").exists()
    assert code.freeze(stages, store) == frozen
    (own / "package" / "parts.py").write_text("from ban.models import MLP as SmallConv\n")
    assert code.freeze(stages, store) != frozen
    for name in ("theirs", "package", "package.parts"):
        monkeypatch.delitem(sys.modules, name)


def test_another_version_that_is_installed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = code.freeze(plan(), Store(tmp_path))
    monkeypatch.syspath_prepend(frozen)
    assert not code.installed_differs(frozen)
    other = tmp_path / "other"
    (other / "ban").mkdir(parents=True)
    (other / "ban" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(other)
    assert code.installed_differs(frozen)
