"""Training: from scratch, fine-tuning after pruning, sparsity training, BatchNorm statistics."""
