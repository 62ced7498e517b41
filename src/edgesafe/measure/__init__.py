"""Measuring an ONNX file: inference under onnxruntime, metrics with intervals, paired comparisons, latency.

Nothing here imports torch. The modules, from the file to the number:

    session        images -> float32 logits, under exactly the provider asked for
    inputs         what a foreign file expects of its input, guessed and confirmed
    probabilities  logits -> float64 softmax -> a `Cell` of evidence
    robustness     which images to corrupt, and the corrupted cells
    evidence       all cells of one file <-> bytes
    calibration    metrics as pure functions
    selective      the risk among the images that a confidence threshold keeps
    clusters       covariances that respect which rows share an image
    bounds         intervals of rates, means, paired differences, means over cells
    intervals      of calibration errors: bootstrap, noise floor, paired
    pooling        which cells make which metric
    comparison     two evidences -> paired differences
    summary        evidence -> every metric with its interval
    sampling       fewer inferences: strata by margin, escalation until a decision
    temperature    temperature scaling
    latency        interleaved timing
"""
