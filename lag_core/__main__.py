from lag_core.cli import main

raise SystemExit(main())
