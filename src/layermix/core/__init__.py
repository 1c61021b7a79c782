"""The heart: signals, mixing, losses, terms, objective, trainer. README.md beside this file first.

Read in this order: `signals` (what an encoder says about a batch), `mixing` (equations 1 and 2),
`losses` (formulas), `terms` (formulas as objects that say what they look at), `objective`
(equation 4), `alpha_learner` (by which rule α learns), `seeds` (one seed, separate streams),
`checkpoints` (what a run is resumed from), `trainer` (the loop).
"""
