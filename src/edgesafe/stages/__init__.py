"""The stages of a study, each from frozen records to one: what `compress`, `evaluate` and `certify` are made of.

In the order of a study: `contract` (is the network one that can be studied), `baseline` and `train`, `prune`, `export`,
`counts` and `timing` (what is counted, and timed), `observe` (what a file predicts), `sequential` (a sample that grows
until a policy is decided), `certify`, `measure` (all of it, written to the study).
"""
