"""Measuring an ONNX file: inference under onnxruntime, metrics with intervals, paired comparisons, latency.

Nothing here imports torch. From the file to the number:

    inference/       images -> float32 logits, under exactly the provider asked for
        session          the file, opened and held to its word; inputs and foreign: what a file of others expects
        classifier       what measuring and certifying need of an open file
        robustness       which images each corrupted cell sees, and the cells
        latency          interleaved timing over sessions
    probabilities    logits -> float64 softmax -> a `Cell` of evidence
    evidence         all cells of one file <-> bytes
    cells            rows of cells: some of them, two parts of one cell together
    metrics/         calibration errors and the temperature, as pure functions on arrays
    intervals/       of rates and means (bounds), of rows that share images (clusters), of calibration errors (ece,
                     folding), of numbers for the report (reported, selective)
    pooling          which cells make which metric, and what an interval over them is about
    sampling/        fewer inferences: strata by the baseline's margin; docs/sampling.md
    summary          evidence -> every metric with its interval
    comparison       two evidences -> paired differences
"""
