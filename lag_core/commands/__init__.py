"""One file per command of `python -m lag_core`: its docstring, `add_arguments(parser)` and `run(options)`."""

from lag_core.commands import (
    adopt,
    compare,
    dashboard,
    data,
    doctor,
    evaluate,
    explain,
    import_,
    import_predictions,
    pack,
    predict,
    report,
    splits,
    survey,
    sweep,
    train,
)

COMMANDS = (
    train, import_, evaluate, survey, predict, explain, report, compare, splits, doctor, pack, adopt,
    import_predictions, sweep, data, dashboard,
)  # fmt: skip
