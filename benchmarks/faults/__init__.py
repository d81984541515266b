"""One table of server faults, run against embedwire and its peers: `python -m benchmarks.faults`."""
