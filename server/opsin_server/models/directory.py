"""The models the server knows: by name, by version, by label; and which one answers a call.

Owns the list and what is read from it. How a version comes into it and goes is `registry.py`'s; who gets
which share is decided in `traffic.py`. Everything here happens on the event loop's thread.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from opsin_detectors.api import ModelInfo, Task
from opsin_server.admission.options import nearest
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, Reason, quote
from opsin_server.models import traffic
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.status import ModelState

__all__ = ["Directory", "Kind", "Version"]

Kind = Literal["detect", "embed"]
"""What a call without a model's name is about."""

DEFAULT_DETECTOR = "nanodet"
_COMING = (ModelState.LOADING, ModelState.WARMING)
_EMBEDS = frozenset({Task.EMBED_IMAGE, Task.EMBED_TEXT})
_DETECTS = frozenset(Task) - _EMBEDS


@dataclass(slots=True, eq=False)
class Version:
    """One version of a model, from the moment somebody asked for it."""

    settings: ModelSettings
    detector: str = ""
    source: str = ""
    state: ModelState = ModelState.LOADING
    failure: Failure | None = None
    loaded: LoadedModel | None = None
    load_seconds: float = 0.0
    serving_since: float = 0.0
    """Unix seconds; 0 = not yet."""
    weight: int = 0
    """Traffic weight among the versions of its name."""
    labels: tuple[str, ...] = field(default=())
    shadow: bool = False
    """Whether it gets a copy of every call for its name."""
    work_bytes: int = 0
    """Memory that warming up took beside the weights."""
    users: int = 0
    """Calls that are being answered by it, decoding included."""
    key: str = field(init=False)
    """`name@number`. Kept, as every call asks for it."""

    def __post_init__(self) -> None:
        self.key = f"{self.name}@{self.number}"

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def number(self) -> int:
        return self.settings.version

    @property
    def serves(self) -> bool:
        """Whether new calls may come to it."""
        return self.state is ModelState.SERVING and self.loaded is not None

    @property
    def choice(self) -> traffic.Choice:
        """What traffic is split by."""
        return traffic.Choice(self.number, self.weight, self.serves, self.labels)


class Directory:
    """All versions of all models, and who answers whom."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """chance: evenly in 0..1, for calls that are split by weights."""
        self._chance = chance
        self._names: dict[str, dict[int, Version]] = {}

    def __iter__(self) -> Iterator[Version]:
        return (version for versions in self._names.values() for version in versions.values())

    def versions(self, name: str) -> list[Version]:
        """Every version of a name. Raises Failure MODEL_NOT_FOUND."""
        versions = self._names.get(name)
        if not versions:
            near = nearest(name, self._names)
            raise Failure(
                Reason.MODEL_NOT_FOUND,
                f"there is no model {quote(name)}" + (f"; the nearest is {quote(near)}" if near else ""),
                field="model",
                metadata={"model": name[:200], **({"nearest": near} if near else {})},
            )
        return list(versions.values())

    def default(self, kind: Kind) -> str:
        """The name that "" stands for. Raises Failure MODEL_NOT_FOUND when no model can do it."""
        if kind == "detect" and DEFAULT_DETECTOR in self._names:
            return DEFAULT_DETECTOR
        tasks = _DETECTS if kind == "detect" else _EMBEDS
        for version in self:
            if version.loaded is not None and version.serves and version.loaded.info.tasks & tasks:
                return version.name
        for version in self:
            if version.state is ModelState.LOADING:
                return version.name  # it may turn out to do it: MODEL_NOT_READY is the truth, not NOT_FOUND
        if kind == "detect" and self._names:
            return next(iter(self._names))
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"no model on this server can {kind}",
            field="model",
            metadata={"model": ""},
        )

    def pick(self, name: str, kind: Kind, routing_key: str = "") -> Version:
        """The version that answers a call for `name`, `name@3`, `name@label` or "". Raises Failure."""
        version = self.find(name, kind, routing_key)
        if not version.serves:
            raise _not_ready(version)
        return version

    def route(self, name: str, kind: Kind, routing_key: str = "") -> LoadedModel:
        """As `pick`, for a call that was let in: its version may be draining by now. Raises Failure."""
        version = self.find(name, kind, routing_key)
        if version.loaded is None or version.state not in (ModelState.SERVING, ModelState.DRAINING):
            raise _not_ready(version)
        return version.loaded

    def info_of(self, name: str) -> ModelInfo:
        """What the version that a call for `name` would get can do. Raises Failure as `route` does."""
        return self.route(name, "detect").info

    def shadow(self, name: str) -> Version | None:
        """The version that gets a copy of every call for a name, if there is one and it serves."""
        for version in self._names.get(name, {}).values():
            if version.shadow and version.serves:
                return version
        return None

    def find(self, name: str, kind: Kind, routing_key: str = "") -> Version:
        """The version that a call is about, whatever its state. Raises Failure."""
        asked = traffic.wanted(name)
        base = asked.name or self.default(kind)
        versions = self.versions(base)
        if asked.kind == "tag":
            return self._tagged(base, asked.tag, versions)
        if len(versions) == 1:
            return versions[0]
        return self._weighted(base, versions, routing_key)

    def _tagged(self, name: str, tag: str, versions: list[Version]) -> Version:
        for version in versions:
            if tag == str(version.number) or tag in version.labels:
                return version
        known = [str(v.number) for v in versions] + [label for v in versions for label in v.labels]
        near = nearest(tag, known) or known[0]
        raise Failure(
            Reason.VERSION_NOT_FOUND,
            f"model {quote(name)} has no version or label {quote(tag)}; it has: {', '.join(known)}",
            field="model",
            metadata={"model": name, "version": tag[:200], "nearest": near},
        )

    def _weighted(self, name: str, versions: list[Version], routing_key: str) -> Version:
        weights = traffic.lead(tuple(v.choice for v in versions))
        if not weights:  # none serves: one that is coming up is the better answer than one that failed
            return max(versions, key=lambda v: (v.state in _COMING, v.weight, v.number))
        if len(weights) == 1:
            (number,) = weights
        elif routing_key:
            number = traffic.stick(weights, name, routing_key)
        else:
            number = traffic.draw(weights, self._chance())
        return self._names[name][number]

    # -- changing ----------------------------------------------------------------------------------------

    def add(self, version: Version) -> None:
        """Take a version into the list."""
        self._names.setdefault(version.name, {})[version.number] = version

    def remove(self, version: Version) -> None:
        """Take it out, and its name with the last."""
        siblings = self._names.get(version.name, {})
        siblings.pop(version.number, None)
        if not siblings:
            self._names.pop(version.name, None)

    def set_label(self, name: str, label: str, to: Version | None) -> None:
        """Lead a label of a name to one version, or to none."""
        for version in self.versions(name):
            version.labels = tuple(one for one in version.labels if one != label)
        if to is not None:
            to.labels = (*to.labels, label)

    def inherit(self, name: str) -> None:
        """Where no version has a weight any more, the newest that serves gets all the traffic."""
        left = [v for v in self.versions(name) if v.state not in (ModelState.DRAINING, ModelState.FAILED)]
        if left and not any(v.weight for v in left):
            max(left, key=lambda v: (v.serves, v.number)).weight = 1


def _not_ready(version: Version) -> Failure:
    metadata = {"model": version.name, "version": str(version.number), "state": version.state.name}
    if version.state is ModelState.FAILED and version.failure is not None:
        return Failure(
            Reason.MODEL_LOAD_FAILED,
            f"model {quote(version.key)} failed to load: {version.failure.message}",
            field="model",
            metadata=metadata,
        )
    return Failure(
        Reason.MODEL_NOT_READY,
        f"model {quote(version.key)} is {version.state.name.lower()}",
        field="model",
        metadata=metadata,
        retry_after=1.0,
    )
