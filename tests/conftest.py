"""One thread per test process: small networks on many threads mostly wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
