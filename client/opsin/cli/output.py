"""Where a command's results go: JSON lines for machines or tables for people on stdout, the rest on stderr.

`Screen` knows the two settings that decide it and nothing of what is shown.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opsin.cli.connection import Settings

__all__ = ["Screen", "json_line"]

PROGRESS_AFTER = 2.0
"""Seconds of work before a progress bar appears: below that it is only a flicker."""


def json_line(line: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """A line of JSON that has bytes in `encoding`: as it is read best, else with escapes alone."""
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:  # a terminal of few letters, or a file's name that is no text
        return json.dumps(line)
    return text


class Screen:
    """Shows results as the settings say."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is printed, and rich is not loaded, before it is needed."""
        self._json = settings.json
        self.for_people = not settings.json and not settings.quiet
        self._console: Any = None

    def result(self, line: Mapping[str, Any], render: Callable[[], Any] | None = None) -> None:
        """Show one result: `line` to machines, what `render` makes to people, neither when quiet.

        Without `render` it is for machines alone: people are told in another way.
        """
        if self._json:
            print(json_line(line, sys.stdout.encoding), flush=True)
        elif self.for_people and render is not None:
            self.show(render())

    def show(self, renderable: Any) -> None:
        """Print something for people, on stdout."""
        if self.for_people:
            self.console.print(renderable)

    def note(self, sentence: str) -> None:
        """Say how a command went, where it disturbs no machine: on stdout to people, else on stderr."""
        if self.for_people:
            from rich.markup import escape

            self.show(f"[dim]{escape(sentence)}[/dim]")
        elif self._json:
            print(sentence, file=sys.stderr)

    @property
    def console(self) -> Any:
        """The rich console of stdout; soft-wrapped, so that a pipe gets whole lines."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False, soft_wrap=True)
        return self._console

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[], None]]:
        """A bar for work that takes long, when somebody can see it; yields "one more is done"."""
        console = self.foot()
        if total < 2 or console is None:
            yield lambda: None
            return
        bar = _bar(console)
        task = bar.add_task(what, total=total)
        # Started late and from a timer, so that one slow first input does not keep it away.
        late = threading.Timer(PROGRESS_AFTER, bar.start)
        late.daemon = True
        late.start()
        try:
            yield lambda: bar.advance(task)
        finally:
            late.cancel()
            bar.stop()

    @contextmanager
    def doing(self) -> Iterator[Callable[[str], None]]:
        """A line that says what is being done, when somebody can see it; yields what changes it."""
        console = self.foot()
        if console is None:
            yield lambda _: None
            return
        with console.status("starting") as status:
            yield status.update

    def foot(self) -> Any:
        """The console for what changes at the foot of a terminal; None where it would disturb.

        Where results for people go to a terminal it is their own console, so that they scroll above; lines
        for machines that share a terminal with stderr are let alone.
        """
        if sys.stdout.isatty():
            return self.console if self.for_people else None
        if not sys.stderr.isatty():
            return None
        from rich.console import Console

        return Console(stderr=True)


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
    )
