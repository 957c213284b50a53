"""Models that look at what another one finds because the settings say so: `--model plates=nanodet,then=ocr`.

Those named in `then` are ordinary models of the server, which serve callers of their own as well. A `then` of
theirs is for those callers: here they say something about a box, and an answer has no boxes within boxes.
Owns what they can say about one, and what must hold before such a model serves; running them is
`cascade.py`'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opsin_detectors.api import LoadError, ModelInfo, Task
from opsin_server.admission.options import nearest
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, quote

__all__ = ["Finder", "Following", "check", "following", "second_task", "with_followers"]

_SAYS = (Task.READ_TEXT, Task.CLASSIFY_IMAGE, Task.EMBED_IMAGE)
"""What can be said about a box, the first that a model can do."""


@dataclass(frozen=True, slots=True)
class Following:
    """names: of the models, as calls name them. margin, classes: as in `opsin_detectors.api.Stage`."""

    names: tuple[str, ...]
    margin: float
    classes: frozenset[str]


class Finder(Protocol):
    """Who knows the models."""

    def info_of(self, name: str) -> ModelInfo:
        """Of the version that a call for this name would get. Raises Failure when none serves."""
        ...


def following(settings: ModelSettings) -> Following | None:
    """What the settings say; None where nothing follows."""
    if not settings.then:
        return None
    return Following(settings.then, settings.then_margin, frozenset(settings.then_classes))


def with_followers(models: Sequence[ModelSettings]) -> tuple[ModelSettings, ...]:
    """All models, each after those that follow it, because these have to serve before it does.

    One that is named in a `then` and nowhere else is served under that name as if it had been asked for.
    Models that follow each other in a circle keep their order: the first fails to load, and says why.
    """
    wanted = dict.fromkeys(_base(name) for model in models for name in model.then)
    there = {model.name for model in models}
    implied = [ModelSettings(name=name) for name in wanted if name not in there]
    followers: dict[str, list[str]] = {}
    for model in models:
        followers.setdefault(model.name, []).extend(map(_base, model.then))
    order: list[str] = []
    for name in wanted:
        _append(name, followers, order, set())
    place = {name: at for at, name in enumerate(order)}
    return (*implied, *sorted(models, key=lambda model: place.get(model.name, len(order))))


def _append(name: str, followers: Mapping[str, Sequence[str]], order: list[str], behind: set[str]) -> None:
    """Append a name that is not in `order` yet, after its followers; `behind`: those that wait for it."""
    if name in order or name in behind:
        return
    for follower in followers.get(name, ()):
        _append(follower, followers, order, behind | {name})
    order.append(name)


def second_task(info: ModelInfo) -> Task | None:
    """What such a model says about a box; None when it can say nothing."""
    return next((task for task in _SAYS if task in info.tasks), None)


def check(settings: ModelSettings, info: ModelInfo, finder: Finder) -> None:
    """Raise LoadError unless the model finds boxes, and the models that follow it can be asked about them."""
    if not settings.then:
        return
    if Task.DETECT not in info.tasks:
        raise LoadError(
            f"then={'+'.join(settings.then)} needs a model that finds boxes, and this one does not"
        )
    for name in settings.then:
        try:
            said = finder.info_of(name)
        except Failure as failure:
            raise LoadError(f"then={name}: {failure.message}; it has to serve first") from failure
        if second_task(said) is None:
            can = ", ".join(sorted(task.name for task in said.tasks))
            needed = ", ".join(task.name for task in _SAYS)
            raise LoadError(f"then={name}: {quote(name)} can only {can}; about a box is said {needed}")
    _check_classes(settings.then_classes, info.classes)


def _check_classes(wanted: Iterable[str], known: Sequence[str]) -> None:
    for name in wanted:
        if known and name not in known:
            near = nearest(name, known)
            hint = f"; the nearest is {quote(near)}" if near else ""
            raise LoadError(f"then_classes: the model has no class {quote(name)}{hint}")


def _base(name: str) -> str:
    """The name without a version or a label."""
    return name.partition("@")[0]
