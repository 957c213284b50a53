"""The model behind Ray Serve, on a Ray of its own on this machine. Settings come from the environment, as in
`bench/peers/litserve/app.py`; why these, and on which page: `bench/peers/contestants.py`.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from bench.peers.user_model import load

BATCH = int(os.environ["PEER_BATCH"])
WAIT = int(os.environ["PEER_WAIT_MS"]) / 1000


class Inference:
    """A replica: decodes and runs batches in a thread, so that its loop goes on collecting requests."""

    def __init__(self) -> None:
        environment = os.environ
        self._model = load(
            environment["PEER_KIND"], environment["PEER_SOURCE"], int(environment["PEER_THREADS"])
        )

    async def __call__(self, request: Request) -> Any:
        """The file's bytes are the request's body."""
        return await self.run(await request.body())

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)  # type: ignore[untyped-decorator]
    async def run(self, files: list[bytes]) -> list[Any]:
        """Pictures in, answers out."""
        return await asyncio.to_thread(self._work, files)

    def _work(self, files: Sequence[bytes]) -> list[Any]:
        return list(self._model.run([self._model.read(data) for data in files]))


def main() -> None:
    """Serve on loopback until told to stop."""
    workers, threads = int(os.environ["PEER_WORKERS"]), int(os.environ["PEER_THREADS"])
    # The proxy and the controller ask for no cores; replicas get all of them.
    ray.init(
        num_cpus=workers * threads,
        include_dashboard=False,
        object_store_memory=256 << 20,
        configure_logging=False,
        runtime_env={
            "env_vars": {key: value for key, value in os.environ.items() if key.startswith("PEER_")}
        },
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"]), "access_log": False})
    deployment = serve.deployment(
        Inference,
        name="inference",
        num_replicas=workers,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": threads},
        logging_config={"enable_access_log": False},
    )
    serve.run(deployment.bind(), name="peer", route_prefix="/")
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    signal.signal(signal.SIGINT, lambda *_: done.set())
    done.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
