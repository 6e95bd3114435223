"""Commands that the app tells people to type; examples, with names of their own to put in."""

IMPORT = "lag import plop step_0.pth step_1.pth --task 15-1 --dataset voc --out checkpoints/plop"
TRAIN = "python -m lag_core train --config configs/aerial-2-2-1.toml --method lag --out checkpoints/my-lag"
