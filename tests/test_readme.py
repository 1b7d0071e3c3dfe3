"""The README's Python runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_python_block_aligns_its2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(block.group(1), scope)
    before, after = (epoch["train/chi2_per_ndf"] for epoch in scope["monitor"].history)  # type: ignore[attr-defined]
    assert before > 3
    assert after < 1.1
