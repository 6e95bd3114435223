"""python -m lag_core. A signal while the modules are loaded ends it as quietly as later ones do."""

from lag_core.interruption import ended_by_signals, interrupted

try:
    with ended_by_signals():
        from lag_core.cli import main
except KeyboardInterrupt as ended:
    raise SystemExit(interrupted(ended)) from None

raise SystemExit(main())
