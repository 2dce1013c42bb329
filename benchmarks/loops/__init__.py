"""Whole training loops beside each other: rollout and update, on three jobs, in steps per second.

`hotloop bench --suite loops`, or `python -m benchmarks.loops` in a checkout, runs them (`loops.command`).
Layers, each knowing the ones before it:

* `jobs`, `networks`, `environments`: what is to be done, the same for everybody.
* `contest_*`: one contestant each, found by name in `contestants`; `phases`: a profile of an epoch.
* `worker`: the process of one contestant; `race`: all of them in turn; `learning`: what they learn.
* `figures`, `report`, `command`: what is printed and written.
"""
