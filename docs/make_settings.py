"""Writes docs/settings.md from the settings' own docstrings; `--check` fails when the page is out of date."""

import argparse
import sys
from pathlib import Path

from pydantic import BaseModel

from opsin_server.config import ModelSettings, Settings

PAGE = Path(__file__).parent / "settings.md"

TOP = """\
# Settings

Made by docs/make_settings.py (`make docs`). Do not edit.

Flags win over the environment, the environment over the file. The file is `opsin.toml` in the working
directory, or the one named with `--config`. `server.port` is `port` in its table `[server]`, and
`OPSIN_SERVER__PORT` in the environment. A wrong value, and a name that does not exist, stop the start with a
sentence that says what would be right.

| setting | default | what it is, and how to choose it |
|---|---|---|
"""

MODELS = """
## Models

`--model NAME[=SOURCE][,key=value...]`, once for each; `OPSIN_MODEL`, the same separated by semicolons; in the
file

```toml
[[model]]
name = "nsfw"
max_batch = 16
```

| key | what it is |
|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the page of settings.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    fresh = page()
    if not parser.parse_args().check:
        PAGE.write_text(fresh)
        return 0
    if PAGE.exists() and PAGE.read_text() == fresh:
        return 0
    print("docs/settings.md is out of date; run: make docs", file=sys.stderr)
    return 1


def page() -> str:
    """The whole page."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "model"}
    rows = [row for name, section in sections.items() for row in section_rows(name, section)]
    keys = [f"| `{name}` | {told(field.description)} |" for name, field in ModelSettings.model_fields.items()]
    return TOP + "\n".join(rows) + "\n" + MODELS + "\n".join(keys) + "\n"


def section_rows(name: str, section: object) -> list[str]:
    """A row for each setting of a section."""
    assert isinstance(section, type)
    assert issubclass(section, BaseModel)
    return [
        f"| `{name}.{key}` | {default(key, field.default)} | {told(field.description)} |"
        for key, field in section.model_fields.items()
    ]


def default(name: str, value: object) -> str:
    """A default as one would write it."""
    if isinstance(value, int) and "bytes" in name:
        for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= size and value % size == 0:
                return f"{value // size}{unit}"
    return "" if value in (None, "", ()) else str(value)


def told(description: str | None) -> str:
    """A docstring on one line of a table."""
    return " ".join((description or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
