"""The tasks: each module has a function ``run(spec, report)``."""
