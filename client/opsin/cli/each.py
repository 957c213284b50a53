"""The loop that `detect` and `embed` share: one bad input never ends it, a server that is gone does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from opsin.cli.connection import Settings
from opsin.cli.exits import ExitCode
from opsin.cli.failures import describe, error_to_dict, exit_code, is_fatal, warn
from opsin.cli.inputs import Input, MissingInputError
from opsin.cli.output import Screen
from opsin.cli.parallel import ordered_map

__all__ = ["Tally", "for_each"]

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Tally(Generic[Answer]):
    """What came of the inputs so far: answered, failed, and the exit code of the first failure."""

    answered: int = 0
    failed: int = 0
    first: ExitCode = ExitCode.OK
    stopped: bool = False
    answers: list[tuple[Input, Answer | None]] = field(default_factory=list)

    @property
    def code(self) -> ExitCode:
        """What the command ends with."""
        if self.failed and self.answered and not self.stopped:
            return ExitCode.SOME_FAILED
        return self.first


def for_each(
    inputs: Sequence[Input],
    ask: Callable[[Input], Answer],
    show: Callable[[Input, Answer], None],
    *,
    jobs: int,
    settings: Settings,
    screen: Screen,
    what: str,
    keep: bool = False,
) -> Tally[Answer]:
    """Ask for each input, `jobs` at a time; show answers in order; tell failures and go on.

    `ask` raises `opsin.OpsinError` or `MissingInputError` for an input that failed. One after
    which the next would fare no better (`is_fatal`) ends the loop. keep: whether the answers are wanted in
    the tally.
    """
    tally: Tally[Answer] = Tally()
    with screen.progress(len(inputs), what) as advance:
        for entry, outcome in ordered_map(_outcome_of(ask), inputs, jobs):
            if isinstance(outcome, Exception):
                _fail(entry, outcome, tally, settings, screen)
            else:
                tally.answered += 1
                show(entry, outcome)
            if keep:
                tally.answers.append((entry, None if isinstance(outcome, Exception) else outcome))
            advance()
            if tally.stopped:
                break
    return tally


def _outcome_of(ask: Callable[[Input], Answer]) -> Callable[[Input], Answer | Exception]:
    import opsin

    def outcome(entry: Input) -> Answer | Exception:
        try:
            return ask(entry)
        except (opsin.OpsinError, MissingInputError) as error:
            return error

    return outcome


def _fail(entry: Input, error: Exception, tally: Tally[Any], settings: Settings, screen: Screen) -> None:
    tally.failed += 1
    tally.first = tally.first or exit_code(error)
    sentence = describe(error, settings.target)
    if is_fatal(error):
        tally.stopped = True
        tally.first = exit_code(error)
        warn(sentence)
    else:
        warn(f"{entry.name}: {sentence}")
    screen.result({"input": entry.name, "error": error_to_dict(error)})
