"""A deterministic simulation: programs that use `nairi_async`, on a hostile service, replayed exactly by a seed.

`plan` draws what a seed means, `process` runs and kills programs, `programs` are the programs with their checks, `run`
runs a seed and shrinks one that fails. `benchmarks/simulate.py` is the command.
"""
