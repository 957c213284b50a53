"""Every setting of the server: what it is, how to choose it, and where its value came from.

One frozen model per concern, built once by `load` and passed down. Flags win over `OPSIN_*` environment
variables, these over the TOML file, and the common names HOST, PORT and MODEL_NAME fill in what nobody set.
This is the only place that reads the environment, and it knows nothing of what the settings are used for.

In the file a section is a table, and models are an array of tables:

    [server]
    port = 50051

    [[model]]
    name = "nsfw"

In the environment the same setting is OPSIN_SERVER__PORT; models are OPSIN_MODEL, written as for `--model`,
separated by semicolons.

`sections.py` has the frozen models, `settings.py` all of them together, `spec.py` a model in one line,
`sources.py` the merging, `faults.py` the sentences about what is wrong.
"""

from opsin_server.config.faults import ConfigError
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
    Section,
    ServerSettings,
    StreamSettings,
)
from opsin_server.config.settings import Settings
from opsin_server.config.sources import DEFAULT_FILE, load
from opsin_server.config.spec import model_spec

__all__ = [
    "DEFAULT_FILE",
    "CacheSettings",
    "ConfigError",
    "DetectorSettings",
    "DrainSettings",
    "LimitSettings",
    "LoadingSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "SchedulerSettings",
    "Section",
    "ServerSettings",
    "Settings",
    "StreamSettings",
    "load",
    "model_spec",
]
