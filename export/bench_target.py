#!/usr/bin/env python3
"""Time ONNX files on the target itself. Needs nothing but Python, numpy and onnxruntime; copy this one file over.

    python3 bench_target.py baseline/model.onnx filter-r0.50-s0/model.onnx --threads 1

The protocol is edgesafe's: batch 1, eight sessions of each file, warm-up, files interleaved in one process; geometric
means over sessions of the median and the 90th percentile, the minimum, and each file's ratio to the first. Peak memory
(VmHWM of Linux) is that of a process of its own for each file. With --images, the outputs are hashed, too; with
--only-outputs, nothing else is done. With --state, finished sessions are kept in a file, and a second run goes on after
them. The output is one JSON object; it names the machine it ran on, and no other.

An error is one JSON object on standard error: {"error": KIND, "text": …}, with exit code 1.
"""

import argparse
import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import time

SESSIONS = 8  # of each file: what differs from session to session is more than the noise of runs
MEMORY_RUNS = 20  # after which a process's peak has been seen


def fail(kind, text):
    print(json.dumps({"error": kind, "text": text}), file=sys.stderr)
    sys.exit(1)


try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    fail("package", f"{error.name or error} cannot be imported by {sys.executable}")


def open_model(path, threads, provider):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if provider not in ort.get_available_providers():
        fail("provider", f"no {provider} in this onnxruntime: it has {', '.join(ort.get_available_providers())}")
    try:
        session = ort.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        fail("model", f"{path}: {error}")
    if session.get_providers()[0] != provider:
        fail("provider", f"{path}: asked for {provider}, got {session.get_providers()[0]}")
    return session


def example(session):
    """One seeded input of the size that the file takes (1 where it leaves a size open)."""
    rng, node = np.random.default_rng(0), session.get_inputs()[0]
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
    if node.type == "tensor(uint8)":
        return {node.name: rng.integers(0, 256, shape, dtype=np.uint8)}
    return {node.name: rng.standard_normal(shape, dtype=np.float32)}


def sha256(path):
    with open(path, "rb") as handle:
        return "sha256:" + hashlib.sha256(handle.read()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ timing


def time_session(paths, args, number, each):
    """ms of the runs, (files, runs), and of opening each file; the order rotates from session to session."""
    order = [(number + j) % len(paths) for j in range(len(paths))]
    sessions, opening, times = {}, [0.0] * len(paths), np.empty((len(paths), each))
    for k in order:
        begin = time.perf_counter_ns()
        sessions[k] = open_model(paths[k], args.threads, args.provider)
        opening[k] = (time.perf_counter_ns() - begin) / 1e6
    feeds = {k: example(session) for k, session in sessions.items()}
    for i in range(-args.warmup, each):
        for j in range(len(paths)):
            k = (i + j) % len(paths)
            begin = time.perf_counter_ns()
            sessions[k].run(None, feeds[k])
            end = time.perf_counter_ns()
            if i >= 0:
                times[k, i] = (end - begin) / 1e6
    return {"session": number, "ms": np.round(times, 6).tolist(), "open_ms": opening}


def measure(paths, args):
    """Every session, those of an earlier run that was cut off included."""
    each = -(-args.runs // SESSIONS)
    key = {"files": [sha256(path) for path in paths], "each": each, "warmup": args.warmup}
    key |= {"threads": args.threads, "provider": args.provider, "onnxruntime": ort.__version__}
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(open(args.state, "a+")) if args.state else None
        if state is not None:
            fcntl.flock(state, fcntl.LOCK_EX)  # a run that lost its connection may still be at work: it is waited for
        done = earlier(state, key)
        for number in range(SESSIONS):
            if number not in done:
                done[number] = time_session(paths, args, number, each)
                keep(state, done[number])
    return [done[number] for number in range(SESSIONS)]


def earlier(state, key):
    """Sessions that a run of the same files in the same setting has kept; anything else is thrown away."""
    if state is None:
        return {}
    state.seek(0)
    lines = []
    for line in state:
        with contextlib.suppress(ValueError):  # the last line of a run that was cut off
            lines.append(json.loads(line))
    if lines and lines[0] == key:
        return {line["session"]: line for line in lines[1:]}
    state.seek(0)
    state.truncate()
    keep(state, key)
    return {}


def keep(state, line):
    if state is not None:
        state.write(json.dumps(line) + "\n")
        state.flush()
        os.fsync(state.fileno())


# ---------------------------------------------------------------------------------------------------- memory, outputs


def status(field):
    """A size in /proc/self/status, in bytes; None where there is none (not Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


def peak_of(path, args):
    """Peak memory of a process that opens one file and runs it, and of that process before it does; bytes."""
    command = [sys.executable, os.path.abspath(__file__), "--only-memory", path]
    command += ["--threads", str(args.threads), "--provider", args.provider]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail("memory", f"{path}: ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def only_memory(path, args):
    before = status("VmHWM")
    session = open_model(path, args.threads, args.provider)
    feed = example(session)
    for _ in range(MEMORY_RUNS):
        session.run(None, feed)
    print(json.dumps({"before": before, "peak": status("VmHWM")}))


def outputs_of(path, images, args):
    """Outputs on images (.npy, as the file takes them), one batch at a time: their hash, and the values themselves."""
    session = open_model(path, args.threads, args.provider)
    node = session.get_inputs()[0]
    batch = node.shape[0] if isinstance(node.shape[0], int) and node.shape[0] > 0 else 1
    pixels = np.load(images, allow_pickle=False)
    runs = [session.run(None, {node.name: pixels[i : i + batch]})[0] for i in range(0, len(pixels), batch)]
    outputs = np.concatenate(runs).astype("<f4")
    content = outputs.tobytes()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return {"sha256": digest, "shape": list(outputs.shape), "float32": base64.b64encode(content).decode()}


# ---------------------------------------------------------------------------------------------------------- the whole


def machine():
    cpu = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
        cpu = names[0] if names else ""
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"numpy": np.__version__, "onnxruntime": ort.__version__},
    }


def outputs_alone(paths, args):
    images = args.images if len(args.images) != 1 else args.images * len(paths)
    return [
        {"file": path, "sha256": sha256(path), "outputs": outputs_of(path, images[k], args)}
        for k, path in enumerate(paths)
    ]


def results_of(paths, args):
    sessions = measure(paths, args)
    times = np.array([one["ms"] for one in sessions]).transpose(1, 0, 2)  # (files, sessions, runs)
    medians = np.exp(np.log(np.median(times, axis=2)).mean(axis=1))
    images = args.images if len(args.images) != 1 else args.images * len(paths)
    results = []
    for k, path in enumerate(paths):
        memory = peak_of(path, args)
        result = {
            "file": path,
            "sha256": sha256(path),
            "p50_ms": round(float(medians[k]), 5),
            "p90_ms": round(float(np.exp(np.log(np.percentile(times[k], 90, axis=1)).mean())), 5),
            "min_ms": round(float(times[k].min()), 5),
            "ratio_to_first": round(float(medians[k] / medians[0]), 5),
            "open_ms": round(float(np.median([one["open_ms"][k] for one in sessions])), 5),
            "peak_bytes": memory["peak"],
            "before_bytes": memory["before"],
        }
        if args.samples:
            result["ms"] = times[k].tolist()
        if images:
            result["outputs"] = outputs_of(path, images[k], args)
        results.append(result)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1024)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--images", nargs="+", default=[], help=".npy of each model, or one for all: hash the outputs")
    parser.add_argument("--state", help="keep finished sessions in this file, and go on after those that it has")
    parser.add_argument("--samples", action="store_true", help="also give the time of each run")
    parser.add_argument("--only-outputs", action="store_true", help="hash the outputs on the images, and time nothing")
    parser.add_argument("--only-memory", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_memory:
        return only_memory(args.only_memory, args)
    if not args.models or args.runs < 64 or args.warmup < 1 or args.threads < 1:
        parser.error("at least one model, 64 runs, 1 warm-up run and 1 thread")
    if len(args.images) not in (0, 1, len(args.models)):
        parser.error("one file of images for all models, or one for each")
    if args.only_outputs and not args.images:
        parser.error("--only-outputs needs --images")
    try:
        results = (outputs_alone if args.only_outputs else results_of)(args.models, args)
    except OSError as error:
        fail("disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "file", str(error))
    except MemoryError:
        fail("memory", "not enough memory")
    setting = {"threads": args.threads, "runs": args.runs, "warmup": args.warmup, "provider": args.provider}
    print(json.dumps({"host": machine(), "setting": setting, "results": results}, indent=1))
    return None


if __name__ == "__main__":
    main()
