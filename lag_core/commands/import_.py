"""Turn another system's step checkpoints into a run folder: SSUL, LAG, DKD, STAR, MiB, PLOP, RCIL, CSSegmentation.

One checkpoint per step, in order, from step 0 on. No code in a checkpoint can run: only tensors are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lag_core.commands.arguments import place
from lag_core.protocol import SETTINGS
from lag_core.sentences import counted, say

NAMES = ("ssul", "lag", "dkd", "star", "mib", "plop", "rcil", "csseg")
DATASETS = ("voc", "ade20k", "isprs", "folder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="[FORMAT] CHECKPOINT",
        help=f"{', '.join(NAMES)} (if left out, it is recognised where possible), then one file per step, in order",
    )
    parser.add_argument("--task", required=True, help="sizes of the steps, as in 15-1 (without the background)")
    parser.add_argument("--dataset", choices=DATASETS, help="dataset of its classes, in the order of ids")
    parser.add_argument("--classes", type=place, help="JSON: the classes in the order of introduction")
    parser.add_argument("--data", type=place, help="folder of the dataset, to evaluate and explain on")
    parser.add_argument("--out", type=place, required=True, help="run folder to write; must not exist")
    parser.add_argument("--size", type=int, help="side of the input square (default: its authors', 512 or 513)")
    parser.add_argument("--setting", choices=SETTINGS, default="overlapped", help="protocol of later steps' images")
    parser.add_argument("--norm", choices=("iabn", "abn"), help="norm_act of MiB, PLOP, RCIL and CSSegmentation")
    parser.add_argument("--output-stride", type=int, choices=(8, 16), default=16, help="of the backbone")


def run(options: argparse.Namespace) -> int:
    from lag_core.config import ConfigError
    from lag_core.importing.classes import of_dataset, of_file
    from lag_core.importing.run_writer import Request, import_run

    first, *rest = options.checkpoints
    form, paths = (first, rest) if first in NAMES else (None, options.checkpoints)
    if not paths:
        raise ConfigError(f"lag import {form}: name one checkpoint per step after it, in order")
    if options.classes is None and options.dataset is None:
        raise ConfigError("lag import: say what it was trained on, with --dataset voc or --classes classes.json")
    classes = (
        of_dataset(options.dataset, options.data)
        if options.classes is None
        else of_file(options.classes, options.dataset)
    )
    request = Request(
        checkpoints=tuple(Path(path) for path in paths),
        out=options.out,
        task=options.task,
        classes=classes,
        format=form,
        size=options.size,
        root="" if options.data is None else str(options.data),
        setting=options.setting,
        norm=options.norm,
        output_stride=options.output_stride,
    )
    written = import_run(request, print)
    say(
        f"{options.out}: a run of {counted(len(written.steps), 'step')}, {written.method} on "
        f"{written.info['dataset']['name']}"
    )
    say(f"next: lag evaluate {options.out} --write, lag survey {options.out}")
    return 0
