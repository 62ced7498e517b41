#!/usr/bin/env python3
"""Time ONNX files on the target itself. Needs nothing but Python, numpy and onnxruntime; copy this one file over.

    python3 bench_target.py baseline/model.onnx filter-r0.50-s0/model.onnx --threads 1

The protocol is edgesafe's: batch 1, warm-up, files interleaved in one process, median, 90th percentile and minimum, and
each file's ratio to the first. The output is one JSON object; it names the machine it ran on, and no other.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import numpy as np
import onnxruntime as ort


def open_model(path, threads, provider):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(path, options, providers=[provider])
    if session.get_providers()[0] != provider:
        sys.exit(f"{path}: asked for {provider}, got {session.get_providers()[0]}")
    return session


def example(session, rng):
    node = session.get_inputs()[0]
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
    if node.type == "tensor(uint8)":
        return {node.name: rng.integers(0, 256, shape, dtype=np.uint8)}
    return {node.name: rng.standard_normal(shape, dtype=np.float32)}


def measure(sessions, feeds, warmup, runs):
    times = [[] for _ in sessions]
    for round_ in range(-warmup, runs):
        for offset in range(len(sessions)):
            k = (round_ + offset) % len(sessions)
            begin = time.perf_counter_ns()
            sessions[k].run(None, feeds[k])
            end = time.perf_counter_ns()
            if round_ >= 0:
                times[k].append((end - begin) / 1e6)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1024)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    args = parser.parse_args()
    if args.runs < 64 or args.warmup < 1 or args.threads < 1:
        parser.error("at least 64 runs, 1 warm-up run and 1 thread")
    rng = np.random.default_rng(0)
    sessions = [open_model(path, args.threads, args.provider) for path in args.models]
    times = measure(sessions, [example(session, rng) for session in sessions], args.warmup, args.runs)
    first = statistics.median(times[0])
    results = {
        path: {
            "p50_ms": round(statistics.median(ms), 5),
            "p90_ms": round(float(np.percentile(ms, 90)), 5),
            "min_ms": round(min(ms), 5),
            "ratio_to_first": round(statistics.median(ms) / first, 5),
        }
        for path, ms in zip(args.models, times, strict=True)
    }
    host = {
        "machine": platform.machine(),
        "node": platform.processor() or platform.machine(),
        "system": platform.platform(),
    }
    setting = {"threads": args.threads, "runs": args.runs, "provider": args.provider, "onnxruntime": ort.__version__}
    print(json.dumps({"host": host, "setting": setting, "results": results}, indent=1))


if __name__ == "__main__":
    main()
