"""Opsin beside the servers its users could pick instead: `python -m bench.peers`, `make bench-peers`.

Each peer lives in a folder with its `app.py`, written as the peer's own documentation advises, and its
`requirements.txt`, installed in a virtual environment of its own (`make bench-peers` makes them). All of them
serve the same weights over the same decoder (`user_model`), are asked for the same pictures by the same loop
(`calling`) in a process of its own, and have to give the same answers (`answers`) before anything is timed.

    subjects   the model files: nsfw, nanodet, a ViT-base with random weights
    contestants  who takes part, with which settings, and on which page those are advised
    process    a peer as a process tree: started, put to sleep while others have their turn, ended
    contest    rounds that take turns
    report     medians, spreads, ratios: JSON and Markdown

Nothing outside this folder imports it, and what runs in a peer's environment imports nothing of Opsin's
server or client.
"""
