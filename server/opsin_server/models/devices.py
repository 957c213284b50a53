"""The devices of a server by name: which there are, and how a name is written for torch.

One of them is the rule; several GPUs are told as `cuda:0+cuda:1`, or `cuda:*` for all there are. A name may
end in `/` and a number that tells apart lanes' devices which are one to torch: stand-ins on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

__all__ = ["current", "devices_of", "pick_device", "place_of"]


def _gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def pick_device(wanted: str) -> str:
    """`auto` made concrete: a GPU when there is one. Torch is asked only where a GPU's driver is."""
    if wanted != "auto":
        return wanted
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def devices_of(wanted: str, gpus: Callable[[], int] = _gpus) -> tuple[str, ...]:
    """The devices that a setting means: "cuda:*" -> "cuda:0", "cuda:1", ...; one of them where there is none.

    `auto` has been made concrete before.
    """
    if wanted == "cuda:*":
        return tuple(f"cuda:{index}" for index in range(gpus())) or ("cuda:0",)
    return tuple(dict.fromkeys(wanted.split("+")))


def place_of(device: str) -> str:
    """The device as torch knows it."""
    return device.partition("/")[0]


@contextmanager
def current(device: str) -> Iterator[None]:
    """What asks torch for the current GPU meanwhile, on this thread, gets this one.

    Where it is not there nothing happens: whoever uses it finds out, and says so better.
    """
    with ExitStack() as stack:
        if device.startswith("cuda:"):  # “cuda” is the current one
            with suppress(ImportError, RuntimeError, AssertionError):
                import torch

                stack.enter_context(torch.cuda.device(place_of(device)))
        yield
