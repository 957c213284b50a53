"""No work done twice: identical inputs in flight run once, and answers are kept when that is asked for.

results.py   the order of it all, and the only thing that the pipeline knows
key.py       when two inputs are the same, and the name of an answer
joining.py   one run for all who wait for the same answer
party.py     those who wait, as one caller whose terms change
memory.py    answers kept in this process
redis.py     answers kept for all servers; breaker.py keeps its troubles away from callers
codec.py     answers as bytes
identity.py  what a loaded model is, for servers that share answers
"""
