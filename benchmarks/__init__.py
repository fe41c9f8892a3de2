"""What the library costs, beside its peers and its floor: `python -m benchmarks`."""
