"""Quick evaluation: a variant is measured on a sample of what its baseline saw, which grows until a policy is decided.

    looks     how large the sample is at each look, and what it is drawn from
    sample    draws and measures what a look asks for beyond what was seen
    judge     asks the gate after each look whether that is enough

Without a policy there is one look, of the whole budget. With one, the sample doubles from look to look; after each, the
gate decides from the evidence so far, exactly as `edgesafe gate` would. Because several looks are several chances to be
wrong, every bound is held at 1 - (1 - confidence) / looks (Bonferroni), which the evidence records, so that the gate
decides the same later. docs/sampling.md has the statistics. Free of torch.
"""

from edgesafe.stages.sequential.looks import ImagePool, Look, plan, pool_of
from edgesafe.stages.sequential.sample import ModelRunner, Runner, StoredRunner, collect

__all__ = ["ImagePool", "Look", "ModelRunner", "Runner", "StoredRunner", "collect", "plan", "pool_of"]
