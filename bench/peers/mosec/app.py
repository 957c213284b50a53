"""The model behind mosec: one stage, so that pixels cross no process border; batches across callers.

Settings come from the environment: PEER_KIND, PEER_SOURCE, PEER_WORKERS, PEER_THREADS, PEER_BATCH,
PEER_WAIT_MS. Why these, and on which page: `bench/peers/contestants.py`.
"""

import json
import os
from typing import Any

from mosec import Server, Worker

from bench.peers.user_model import load


class Inference(Worker):  # type: ignore[misc]
    """A worker process: it decodes what it was sent and runs the model on all of it at once."""

    def __init__(self) -> None:
        super().__init__()
        environment = os.environ
        self._model = load(
            environment["PEER_KIND"], environment["PEER_SOURCE"], int(environment["PEER_THREADS"])
        )

    def deserialize(self, data: bytes) -> Any:
        """The file's bytes are the request's body."""
        return self._model.read(bytes(data))

    def serialize(self, data: Any) -> bytes:
        """JSON."""
        return json.dumps(data).encode()

    def forward(self, data: list[Any]) -> list[Any]:
        """Pictures in, answers out."""
        return list(self._model.run(data))


def main() -> None:
    """Serve on the port that mosec's own `--port` names."""
    workers, threads = int(os.environ["PEER_WORKERS"]), os.environ["PEER_THREADS"]
    server = Server()
    server.append_worker(
        Inference,
        num=workers,
        max_batch_size=int(os.environ["PEER_BATCH"]),
        max_wait_time=int(os.environ["PEER_WAIT_MS"]),
        env=[{"OMP_NUM_THREADS": threads} for _ in range(workers)],
    )
    server.run()


if __name__ == "__main__":
    main()
