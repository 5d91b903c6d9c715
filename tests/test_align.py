"""Without a preference method the adapter passes through as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages import align
from stages.lib.params import Refusal


def test_none_copies_every_file_byte_for_byte(toy: Path) -> None:
    files = {"adapter_config.json": b'{"r": 4}\r\n', "adapter_model.safetensors": bytes(range(256)), "deep/note": b""}
    for name, content in files.items():
        (toy / "models/adapter" / name).parent.mkdir(parents=True, exist_ok=True)
        (toy / "models/adapter" / name).write_bytes(content)
    (toy / "models/aligned").mkdir()
    (toy / "models/aligned/stale").touch()
    align.main(align.Align(method="none"))
    found = {
        str(p.relative_to("models/aligned")): p.read_bytes() for p in Path("models/aligned").rglob("*") if p.is_file()
    }
    assert found == files
    assert sorted(p.name for p in Path("models").iterdir()) == ["adapter", "aligned"]


def test_a_missing_adapter_is_refused(toy: Path) -> None:
    (toy / "models/adapter").mkdir(parents=True)
    with pytest.raises(Refusal, match=r"models/adapter/adapter_config.json: no such file; `dvc repro train`"):
        align.main(align.Align(method="none"))
    assert not Path("models/aligned").exists()


def test_every_method_of_the_section_is_there() -> None:
    assert set(align.METHODS) == {"none"}
    with pytest.raises(ValidationError):
        align.Align(method="unheard-of")  # type: ignore[arg-type]
