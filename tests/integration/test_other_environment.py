"""Commands for other environments, of which an outbox that is shared may have many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from confiture_webhooks.config import file as config_file
from confiture_webhooks.run.other_environment import ENVIRONMENTS, elsewhere_line


def test_each_file_is_read_once_for_all_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run says this at its end; a file that has changed is read again."""
    monkeypatch.chdir(tmp_path)
    ENVIRONMENTS.mkdir(parents=True)
    paths = [ENVIRONMENTS / f"{name}.yaml" for name in ("a", "b", "local")]
    for path in paths:
        path.write_text(f"name: of-{path.stem}\n", encoding="utf-8")
    read, seen = config_file.read, []

    def counted(path: Path, *args: Any, **kwargs: Any) -> Any:
        seen.append(path)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(config_file, "read", counted)
    line = elsewhere_line({f"foreign{number}": 1 for number in range(20)})
    assert line.count("--config FILE") == 20
    assert sorted(set(seen)) == sorted(seen) == sorted(paths)
    paths[0].write_text("name: foreign1, and more\n", encoding="utf-8")
    assert "deliver --config db/environments/a.yaml" in elsewhere_line({"foreign1, and more": 1})
