"""All sections together, and what must hold between them."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from opsin_server.config.sections import (
    CacheSettings,
    DetectorSettings,
    DrainSettings,
    LimitSettings,
    LoadingSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    SchedulerSettings,
    ServerSettings,
    StreamSettings,
)
from opsin_server.config.spec import model_spec

__all__ = ["PREFIX", "Settings"]

PREFIX = "OPSIN_"


class Settings(BaseSettings):
    """All settings. Build it with `load`, which merges the sources and remembers what came from where."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    limits: LimitSettings = LimitSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    streams: StreamSettings = StreamSettings()
    cache: CacheSettings = CacheSettings()
    detectors: DetectorSettings = DetectorSettings()
    loading: LoadingSettings = LoadingSettings()
    log: LogSettings = LogSettings()
    drain: DrainSettings = DrainSettings()
    model: Annotated[tuple[ModelSettings, ...], NoDecode] = ()
    """The models to load. Empty: the built-in ones."""

    @field_validator("model", mode="before")
    @classmethod
    def _specs(cls, value: object) -> object:
        """Models may be written as `--model` takes them, also several in one string."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(";") if part.strip()]
        if not isinstance(value, Sequence):
            return value
        return [model_spec(item) if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _versions_differ(self) -> "Settings":
        seen = set()
        for model in self.model:
            if (model.name, model.version) in seen:
                msg = f"model {model.name} has version {model.version} twice; give each its own version"
                raise ValueError(msg)
            seen.add((model.name, model.version))
        return self

    @model_validator(mode="after")
    def _traffic_goes_somewhere(self) -> "Settings":
        for name in {model.name for model in self.model}:
            versions = [model for model in self.model if model.name == name]
            if all(model.weight == 0 for model in versions):
                msg = f"every version of model {name} has weight 0; one at least has to be above it"
                raise ValueError(msg)
            if sum(model.shadow for model in versions) > 1:
                msg = f"model {name} has several shadows; one is the most there can be"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _labels_lead_to_one(self) -> "Settings":
        seen: dict[str, int] = {}
        for model in self.model:
            for label in model.labels:
                named = f"{model.name}@{label}"
                if seen.setdefault(named, model.version) != model.version:
                    msg = f"{named} leads to versions {seen[named]} and {model.version}; it can lead to one"
                    raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged; a Settings() in a test never picks up the machine's environment."""
        return (init_settings,)
