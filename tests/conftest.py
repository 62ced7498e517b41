"""One core for each test process, so that processes side by side do not wait for each other's threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # "gw0", "gw1", …: set where several processes share the tests
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
