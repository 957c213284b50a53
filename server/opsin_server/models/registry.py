"""The lives of models: how a version comes up, fails, serves, and goes.

    LOADING -> WARMING -> SERVING -> DRAINING -> gone          FAILED(reason) from LOADING or WARMING

One model is loaded after the other: they would only disturb each other's measurements. Everything here
happens on the event loop's thread. Who answers a call is `directory.py`'s, the loading itself `loading.py`'s,
how versions make way for each other `lifecycle.py`'s.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection

import structlog

from opsin_detectors.api import LoadError
from opsin_detectors.settings import SettingError
from opsin_detectors.sources import Resolved
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, Reason
from opsin_server.models.background import in_background
from opsin_server.models.directory import Directory, Version
from opsin_server.models.following import check as check_followers
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.loading import Loader
from opsin_server.models.replicas import bytes_taken
from opsin_server.models.runtimes import log_ready, log_runtime
from opsin_server.models.status import ModelState
from opsin_server.scheduling.batch import out_of_memory
from opsin_server.scheduling.scheduler import Scheduler

__all__ = ["Registry"]

log = structlog.get_logger(__name__)


class _UnwantedError(Exception):
    """It was unloaded while it was being loaded."""


class Registry(Directory):
    """All models of a server, and what becomes of them."""

    def __init__(
        self,
        loader: Loader,
        scheduler: Scheduler,
        *,
        on_state: Callable[[Version], None] = lambda version: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(chance)
        self._loader = loader
        self._scheduler = scheduler
        self._on_state = on_state
        self._turn = asyncio.Lock()

    @property
    def detectors(self) -> Collection[str]:
        """Names of the detectors there are."""
        return self._loader.detectors

    def prove(self, settings: ModelSettings) -> tuple[Resolved, int]:
        """As the loader's `prove`, before anything is declared."""
        return self._loader.prove(settings)

    def declare(self, settings: ModelSettings) -> Version:
        """Take a model into the list, LOADING; `load` does the work.

        The first version of a name gets all its traffic, a later one none, unless the settings say otherwise.
        Its labels lead to it at once where they lead nowhere, else when it serves.
        """
        siblings = self._names.get(settings.name, {})
        version = Version(settings, shadow=settings.shadow)
        version.weight = 0 if any(v.weight for v in siblings.values()) else 1
        if settings.weight is not None:
            version.weight = settings.weight
        taken = {label for v in siblings.values() for label in v.labels}
        version.labels = tuple(label for label in settings.labels if label not in taken)
        self.add(version)
        return version

    async def load(self, version: Version) -> None:
        """Bring a declared version to SERVING, or to FAILED with the reason; never raises for a bad model."""
        async with self._turn:
            begun = time.monotonic()
            try:
                await self._bring_up(version)
            except Exception as error:
                self._failed(version, error)
                return
            finally:
                self._loader.done(version)
            version.load_seconds = time.monotonic() - begun
            version.serving_since = time.time()
            self._take_labels(version)
            self._enter(version, ModelState.SERVING)

    async def _bring_up(self, version: Version) -> None:
        self._check_wanted(version)
        self._enter(version, ModelState.LOADING)
        begun = time.monotonic()
        version.loaded = await in_background(self._loader.load, version)
        loaded = time.monotonic()
        for one in version.loaded.whole:
            log_runtime(one.key, one.info)
        self._check_wanted(version)
        check_followers(version.settings, version.loaded.info, self)
        self._enter(version, ModelState.WARMING)
        before = bytes_taken(version.loaded)
        for one in reversed(version.loaded.whole):
            await self._loader.warm(version, one)
        version.work_bytes = max(0, bytes_taken(version.loaded) - before)
        log_ready(version.key, loading=loaded - begun, warming=time.monotonic() - loaded)
        self._check_wanted(version)

    def _check_wanted(self, version: Version) -> None:
        if version.state is ModelState.DRAINING:
            raise _UnwantedError

    def _take_labels(self, version: Version) -> None:
        """The labels that were meant for it lead to it from now on, and nowhere else."""
        late = [label for label in version.settings.labels if label not in version.labels]
        for label in late:
            self.set_label(version.name, label, version)

    def retire(self, version: Version) -> None:
        """No new calls for a version: DRAINING. What is left of its name serves on."""
        version.weight = 0
        version.shadow = False
        self._enter(version, ModelState.DRAINING)
        self.inherit(version.name)

    def drop(self, version: Version) -> LoadedModel | None:
        """Forget a version; what was loaded of it is the caller's to close."""
        self.remove(version)
        loaded, version.loaded = version.loaded, None
        for one in loaded.whole if loaded is not None else ():
            self._scheduler.remove_model(one.key)
        log.info("model_gone", model=version.key)
        return loaded

    def _failed(self, version: Version, error: Exception) -> None:
        """The version will not serve: say why, and let its weights go."""
        wanted = version.state is not ModelState.DRAINING
        if wanted:
            version.failure = _why_failed(version, error)
        loaded, version.loaded = version.loaded, None
        if loaded is not None:
            for one in loaded.whole:
                self._scheduler.remove_model(one.key)
            loaded.close()
        if wanted:
            version.weight, version.labels, version.shadow = 0, (), False
            version.state = ModelState.FAILED
            self.inherit(version.name)
            self._enter(version, ModelState.FAILED)

    def _enter(self, version: Version, state: ModelState) -> None:
        version.state = state
        log.info("model_state", model=version.key, state=state.name)
        self._on_state(version)

    async def close(self) -> None:
        """Let every detector go."""
        for version in self:
            if version.loaded is not None:
                version.loaded.close()


def _why_failed(version: Version, error: Exception) -> Failure:
    match error:
        case Failure():
            return error
        case SettingError():
            return Failure(Reason.OPTION_INVALID, str(error), "settings", {"model": version.name})
        case LoadError():
            message = str(error)
        case _:
            log.error("model_load_failed", model=version.key, exc_info=error)
            message = f"{type(error).__name__}: {error}"
    reason = Reason.DEVICE_MEMORY if _for_want_of_memory(error) else Reason.MODEL_LOAD_FAILED
    return Failure(reason, message, metadata={"model": version.name})


def _for_want_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, is about memory."""
    seen: BaseException | None = error
    while seen is not None and not out_of_memory(seen):
        seen = seen.__cause__ or seen.__context__
    return seen is not None
