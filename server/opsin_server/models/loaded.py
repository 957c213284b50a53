"""A loaded model as the scheduler and the pipeline use it: a detector, and the checks around it.

Owns the stacking of prepared inputs into one batch, and the proof that a detector kept its promises: as many
answers as inputs, only finite numbers. Knows no event loop and no queue.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsin_detectors.api import Detector, ImageInput, Input, Item, Options, Output, Prepared, Stage, Task
from opsin_server.errors import Failure, Reason
from opsin_server.media.device import DeviceDecoder, at_home, is_tensor, working
from opsin_server.models.following import Following
from opsin_server.models.staging import Launched, Stager, api_for
from opsin_server.scheduling.batch import WrongLengthError, out_of_memory
from opsin_server.scheduling.lanes import DEVICE

__all__ = ["LoadedModel", "let_go"]


@dataclass(frozen=True, slots=True)
class _Ran:
    """Outputs of a model on several devices, and whose they are: who ran a batch finishes it."""

    detector: Detector
    outputs: Any


class LoadedModel:
    """A detector with weights, under a name and a version.

    replicas: the same, loaded on each of several devices, by its name; `detector` is one of them, and
        prepares for all.
    """

    def __init__(
        self,
        name: str,
        version: int,
        detector: Detector,
        following: Following | None = None,
        replicas: Mapping[str, Detector] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.detector = detector
        self.info = detector.info
        self.key = f"{name}@{version}"
        """`name@version`: the name that queues, profiles and metrics know it by."""
        self.light = detector.info.light
        """Whether a batch takes less than the hop to another thread would."""
        self.replicas: Mapping[str, Detector] = replicas or {}
        self.everywhere = bool(self.replicas)
        """Whether each of several devices has it."""
        # No model's name holds a “/”, so a stage's key is nobody else's.
        self.stages: tuple[tuple[Stage, LoadedModel], ...] = tuple(
            (
                stage,
                LoadedModel(
                    f"{name}/{stage.name}",
                    version,
                    stage.detector,
                    replicas={on: one.info.stages[at].detector for on, one in self.replicas.items()},
                ),
            )
            for at, stage in enumerate(detector.info.stages)
        )
        """The second stage of a cascade: models of their own, which live and end with this one."""
        self.following = following
        """Models of the server that look at what this one finds, too."""
        self.decoder: DeviceDecoder | None = None
        """What decodes its pictures on its device; None: the CPU does."""
        self.decoded_by = ""
        """The decoder's name, for people; empty where there was no choice."""

    @property
    def device(self) -> str:
        """What it runs on, as people are told: `cuda:0`, `cuda:0+cuda:1`."""
        return "+".join(self.replicas) or self.info.device

    @property
    def whole(self) -> "tuple[LoadedModel, ...]":
        """This model and those of its second stage."""
        return (self, *(stage for _, stage in self.stages))

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """The detector's own, on the CPU pool. One that takes no tensors from its device never sees one."""
        if not isinstance(source, ImageInput) or not is_tensor(source.pixels):
            return self.detector.prepare(source, task, options)
        if self.decoder is None or not self.decoder.is_home_of(source.pixels):
            return self.detector.prepare(at_home(source), task, options)
        try:
            with working(self.decoder.device):
                return self.detector.prepare(source, task, options)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        return self.detector.prepare(at_home(source), task, options)

    def launch(self, prepared: Sequence[Prepared], local: dict[str, object]) -> Any:
        """Start one batch, on a lane's thread: stack, move, infer."""
        data = [p.data for p in prepared]
        spec, detector = self.info.input, self._on(local)
        if spec is None:
            return detector.infer(data)
        if spec.framework == "numpy":
            return detector.infer(np.stack(data))
        return self._stager(local).launch(data, spec, detector.infer)

    def _on(self, local: dict[str, object]) -> Detector:
        """The detector on the lane's device; the only one where it is on one device."""
        return self.replicas.get(str(local.get(DEVICE, "")), self.detector)

    def collect(self, launched: Any, local: dict[str, object]) -> Any:
        """The outputs of a started batch, on the host."""
        outputs = self._stager(local).collect(launched) if isinstance(launched, Launched) else launched
        return _Ran(self._on(local), outputs) if self.replicas else outputs

    def _stager(self, local: dict[str, object]) -> Stager:
        """The lane's stager for the device the model has there; models on one device share it."""
        device = self._on(local).info.device
        name = f"stager/{device}"
        stager = local.get(name)
        if not isinstance(stager, Stager):
            stager = local[name] = Stager(api_for(device))
        return stager

    def finish(self, outputs: Any, items: Sequence[Item]) -> list[Output | Failure]:
        """One answer per item, in order; an answer with a non-finite number is that item's failure.

        Raises WrongLengthError, and whatever the detector raises.
        """
        detector = self.detector
        if isinstance(outputs, _Ran):
            detector, outputs = outputs.detector, outputs.outputs
        answers = list(detector.finish(outputs, items))
        if len(answers) != len(items):
            raise WrongLengthError(f"{len(items)} inputs gave {len(answers)} answers")
        return [answer if _finite(answer) else self._not_finite() for answer in answers]

    def close(self) -> None:
        """Let the detector go, on every device, and those of its second stage."""
        for detector in self.replicas.values() or (self.detector,):
            let_go(detector)

    def _not_finite(self) -> Failure:
        return Failure(
            Reason.DETECTOR_BROKEN,
            f"model “{self.name}” gave a number that is not finite for this input",
            metadata={"model": self.name, "version": str(self.version)},
        )


def let_go(detector: Detector) -> None:
    """Close a detector, and those of its second stage."""
    for stage in detector.info.stages:
        let_go(stage.detector)
    detector.close()


def _finite(output: Output) -> bool:
    """Whether every number of an answer is one."""
    if output.vector is not None and not np.isfinite(output.vector).all():
        return False
    for label in output.labels:
        if not math.isfinite(label.score):
            return False
    for found in output.detections:
        box = found.box
        # The sum of finite numbers of this size is finite, and one NaN or infinity makes it not so.
        if not math.isfinite(found.score + box.x_min + box.y_min + box.x_max + box.y_max):
            return False
        if any(not math.isfinite(label.score) for a in found.attributes for label in a.labels):
            return False
    return True
