"""Reference models: small, slow, obviously right, and written from docs/reassembly.md alone.

`tcp` and `defrag` say what reassembly must deliver, one byte at a time; `build` makes the
frames and capture files that carry the same traffic to the engine; `engine` runs those files
through it. The tests compare what comes out.
"""
