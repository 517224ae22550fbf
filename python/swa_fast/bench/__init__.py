"""`swa-fast bench`: the fused running mean against what people write without it.

`workloads` are averaged by `competitors`, timed as `timing` says; `run` returns a record, which
`report` and `plot` show. The scripts in the repository's folder benchmarks/ use these modules too.
"""


class UserError(Exception):
    """Something the user asked for cannot be done; the message is one sentence. Exit code 2."""


class CheckError(Exception):
    """A fused result has not the bits of NumPy's. Exit code 1."""
