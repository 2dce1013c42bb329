"""Trainers with hotloop and without, in turn: `python -m benchmarks.integrations`, or `make
bench-integrations`.

`host_<name>.py` builds a real trainer of a host, `subject.py` says what it has to offer, `race.py` lets
the two play, each in a process of its own in the environment of the host (`tools/host_environment.py`).
"""
