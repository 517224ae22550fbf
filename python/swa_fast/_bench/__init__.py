"""`swa-fast bench`: the fused running mean against what people write without it.

One concept per file: `workloads` (which models), `arena` and `memory` (where the numbers live),
`competitors` (what is timed), `check` (is it right), `timing` (how long it takes), `overhead`
(what a call costs before any byte is moved), `budgets` (what was promised), `report` and `plot`
(what is shown), `run` (the order of it all). Nothing here is imported by `import swa_fast`.
"""
