"""The truth tests of `benchmarks/faithfulness.py`, one file a check."""
