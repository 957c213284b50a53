"""The model behind LitServe. Settings come from the environment, as in `bench/peers/mosec/app.py`, and the
port from PEER_PORT; why these, and on which page: `bench/peers/contestants.py`.
"""

import os
from collections.abc import Sequence
from typing import Any

import litserve
from fastapi import Request

from bench.peers.user_model import load


class Inference(litserve.LitAPI):  # type: ignore[misc]
    """A worker process: decode, stack, run."""

    def setup(self, device: str) -> None:
        """Once a worker."""
        environment = os.environ
        self._model = load(
            environment["PEER_KIND"], environment["PEER_SOURCE"], int(environment["PEER_THREADS"])
        )

    def decode_request(self, request: Request) -> Any:
        """A form with the file in the field `image`."""
        return self._model.read(request["image"].file.read())

    def batch(self, inputs: Sequence[Any]) -> list[Any]:
        """As they are: the model stacks them."""
        return list(inputs)

    def predict(self, batch: Sequence[Any]) -> list[Any]:
        """Pictures in, answers out."""
        return list(self._model.run(batch))

    def unbatch(self, output: Sequence[Any]) -> list[Any]:
        """One answer a picture."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """JSON-ready already."""
        return output


def main() -> None:
    """Serve on loopback."""
    api = Inference(
        max_batch_size=int(os.environ["PEER_BATCH"]), batch_timeout=int(os.environ["PEER_WAIT_MS"]) / 1000
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        fast_queue=os.environ["PEER_FAST_QUEUE"] == "1",
        timeout=120,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
