"""How fast embedwire is beside its peers: ``python -m benchmarks.speed``, or ``make bench``."""
