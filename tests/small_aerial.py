"""A training of seconds on generated tiles, for browser tests that need real networks."""

CONFIG = """
[data]
dataset = "aerial"
task = "2-2-1"
domains = ["rgb", "irrg"]
size = 64
views = 1
tiles = 12
[model]
backbone = "mobilenet_v2"
latent = 16
head_width = 8
[optim]
epochs = 1
epochs_later = 1
batch = 4
threads = 1
"""
