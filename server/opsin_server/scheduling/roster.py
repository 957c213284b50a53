"""The models that a scheduler can run, and what is known of each. Owns the list, decides nothing."""

from dataclasses import dataclass, field

from opsin_detectors.api import Item, Prepared
from opsin_server.scheduling.batch import Runner
from opsin_server.scheduling.profile import Profile

__all__ = ["Model", "Roster"]


@dataclass(slots=True)
class Model:
    """A model the scheduler can run. probe: an input that is known to work, to try a new lane with."""

    runner: Runner
    profile: Profile = field(default_factory=Profile)
    probe: tuple[Prepared, Item] | None = None


class Roster:
    """Models by key. profiles: those of all models, as the policy reads them."""

    def __init__(self) -> None:
        self.profiles: dict[str, Profile] = {}
        self._models: dict[str, Model] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._models

    def __getitem__(self, key: str) -> Model:
        return self._models[key]

    def get(self, key: str) -> Model | None:
        """A model, if it is there."""
        return self._models.get(key)

    def add(self, key: str, runner: Runner, probe: tuple[Prepared, Item] | None) -> None:
        """Take a model in; one that is there already keeps its profile."""
        model = self._models.get(key)
        if model is None:
            model = self._models[key] = Model(runner)
        model.runner, model.probe = runner, probe
        self.profiles[key] = model.profile

    def remove(self, key: str) -> None:
        """Forget a model."""
        self._models.pop(key, None)
        self.profiles.pop(key, None)
