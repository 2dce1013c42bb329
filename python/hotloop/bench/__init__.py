"""Benchmarks of the ops: beside the time to copy their bytes, and beside other systems that are installed.

`hotloop bench` is its command (`hotloop.bench.command`). Layers, each knowing the ones before it:

* `timing`, `load`, `machine`: a clock, the other load on this machine, and what the machine is.
* `case`: what is timed: contestants on one shape, the bytes that must move, and how results are compared.
* `estimators`, `suite_*`: the cases themselves. `peers`: other systems, each imported only where installed.
* `runner`: one process for each number of threads; `worker` is that process.
* `table`, `html`, `explain`, `command`: what is printed.
"""
