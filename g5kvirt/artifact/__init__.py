"""A run, or several, as one file for a reviewer: what happened, its figures, and how to draw them again.

`collect` says what an archive has, `draw` makes its tables and figures, `crate` describes it (RO-Crate),
`packing` writes it and unpacks it. Who draws again calls the same `draw` on what was unpacked.
"""
