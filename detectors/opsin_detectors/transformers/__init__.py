"""Built-in detector for Hugging Face checkpoints: a local folder or a hub id, of a family told by its config.

`families.py` chooses, one sibling module per family answers, and what they share is in `checkpoint.py`
(loading, and what is not loaded), `pictures.py` (pixels) and `heads.py` (features beside scores).
"""
