#!/usr/bin/env python3
"""Time ONNX files on the target itself. Needs nothing but Python, numpy and onnxruntime; copy this one file over.

    python3 bench_target.py baseline/model.onnx filter-r0.50-s0/model.onnx --threads 1

The protocol is edgesafe's: batch 1, eight sessions of each file, warm-up, files interleaved in one process; geometric
means over sessions of the median and the 90th percentile, the minimum, and each file's ratio to the first. The output is one JSON object; it names the machine it ran on, and no other.
"""

import argparse
import json
import platform
import sys
import time

import numpy as np
import onnxruntime as ort

SESSIONS = 8  # of each file: what differs from session to session is more than the noise of runs


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


def measure(paths, args, rng):
    """ms, (files, sessions, runs): each session opens every file anew."""
    each = -(-args.runs // SESSIONS)
    times = np.empty((len(paths), SESSIONS, each))
    for s in range(SESSIONS):
        order = [(s + j) % len(paths) for j in range(len(paths))]
        sessions = {k: open_model(paths[k], args.threads, args.provider) for k in order}
        feeds = {k: example(session, rng) for k, session in sessions.items()}
        for i in range(-args.warmup, each):
            for j in range(len(paths)):
                k = (i + j) % len(paths)
                begin = time.perf_counter_ns()
                sessions[k].run(None, feeds[k])
                end = time.perf_counter_ns()
                if i >= 0:
                    times[k, s, i] = (end - begin) / 1e6
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
    times = measure(args.models, args, rng)
    medians = np.exp(np.log(np.median(times, axis=2)).mean(axis=1))
    results = {
        path: {
            "p50_ms": round(float(median), 5),
            "p90_ms": round(float(np.exp(np.log(np.percentile(ms, 90, axis=1)).mean())), 5),
            "min_ms": round(float(ms.min()), 5),
            "ratio_to_first": round(float(median / medians[0]), 5),
        }
        for path, ms, median in zip(args.models, times, medians, strict=True)
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
