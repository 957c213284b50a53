"""Reading a model's `key=value` settings, for detectors. Knows nothing about any one detector.

A wrong setting is refused while loading, with the key's name and what would be right:

    settings = Settings(context)
    delay = settings.number("delay_ms", 0.0, least=0.0)
    settings.done()  # whatever was not asked for is unknown
"""

import math
from difflib import get_close_matches

from opsin_detectors.api import LoadContext, LoadError

__all__ = ["SettingError", "Settings"]

_SWITCH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class SettingError(LoadError):
    """A setting is wrong, or there is no such setting; the message names it and says what would be right."""


class Settings:
    """Typed access to `LoadContext.settings`. Remembers what was asked for, to refuse the rest."""

    def __init__(self, context: LoadContext) -> None:
        self._model = context.name
        self._values = context.settings
        self._known: list[str] = []

    def text(self, key: str, default: str = "") -> str:
        """The setting as it was written, without surrounding blanks."""
        self._known.append(key)
        return self._values.get(key, default).strip()

    def switch(self, key: str, default: bool = False) -> bool:
        """True or false, also written yes/no, on/off, 1/0. Raises LoadError for anything else."""
        value = self.text(key, str(default)).lower()
        if value not in _SWITCH:
            raise self._wrong(key, f"has to be true or false, not “{value}”")
        return _SWITCH[value]

    def number(self, key: str, default: float, *, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number from `least` to `most`. Raises LoadError for anything else."""
        written = self.text(key, str(default))
        try:
            value = float(written)
        except ValueError:
            raise self._wrong(key, f"has to be a number, not “{written}”") from None
        if not math.isfinite(value) or not least <= value <= most:
            raise self._wrong(key, f"has to be {_range(least, most)}, not {written}")
        return value

    def done(self) -> None:
        """Refuse what nobody asked for. Raises LoadError naming the key and the nearest known one."""
        for key in self._values:
            if key not in self._known:
                near = get_close_matches(key, self._known, n=1)
                known = ", ".join(sorted(self._known)) or "none"
                hint = f"did you mean “{near[0]}”?" if near else f"known settings: {known}"
                raise SettingError(f"model “{self._model}” has no setting “{key}”; {hint}")

    def _wrong(self, key: str, why: str) -> SettingError:
        return SettingError(f"setting “{key}” of model “{self._model}” {why}")


def _range(least: float, most: float) -> str:
    match math.isfinite(least), math.isfinite(most):
        case True, True:
            return f"from {least:g} to {most:g}"
        case True, False:
            return f"at least {least:g}"
        case False, True:
            return f"at most {most:g}"
        case _:
            return "finite"
