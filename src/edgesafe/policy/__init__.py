"""The gate: a policy, a study's records, and a verdict with an exit code. Needs neither numpy nor torch.

rules = policy.load(path)
verdict = decide.decide(rules, study, measurements, variants, baseline=None, today=date)
text = outputs.to_junit(verdict)
"""

from edgesafe.policy import (
    decision,
    lock,
    outputs,
    policy,
)

__all__ = ["decide", "lock", "outputs", "policy"]
