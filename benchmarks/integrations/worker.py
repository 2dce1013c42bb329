"""The process of one subject: orders as lines of JSON on stdin, answers as lines of JSON on stdout.

The first line says what to build; then `iteration` orders one. Between orders the process may be stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

import torch

from hotloop.bench import load, machine

from .subject import make_subject


def main() -> int:
    # Whatever other packages print must not come between the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    order = json.loads(sys.stdin.readline())
    torch.set_num_threads(order["threads"])
    torch.manual_seed(order["seed"])
    subject = make_subject(
        order["host"], order["job"], side=order["side"], quick=order["quick"], seed=order["seed"]
    )

    def emit(**fields: object) -> None:
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    emit(note=subject.note, steps=subject.steps, machine=machine.describe())
    try:
        for _ in sys.stdin:
            subject.clock.take()
            before, start = load.read(), time.perf_counter()
            subject.iteration()
            seconds, after = time.perf_counter() - start, load.read()
            other = load.other_load(before, after, os.cpu_count() or 1)
            emit(seconds=seconds, parts=subject.clock.take(), other_load=other)
    except KeyboardInterrupt:
        return 130
    finally:
        subject.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
