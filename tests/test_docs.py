"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

import errors
from config import Settings, variable_name

README = (Path(__file__).parent.parent / "README.md").read_text()


def settings_rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        text = ",".join(map(str, default)) if isinstance(default, tuple) else "" if default is None else str(default)
        rows.append(f"| `{variable_name(name)}` | {f'`{text}`' if text else 'unset'} | {field.description} |")
    return rows


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    missing = [row for row in settings_rows() if row not in README]

    assert missing == []


def test_every_error_stands_in_the_readme_with_its_status() -> None:
    rows = [f"| {error.http_status} | `{error.code}` |" for error in errors.WIRE_ERRORS]

    assert [row for row in rows if row not in README] == []
