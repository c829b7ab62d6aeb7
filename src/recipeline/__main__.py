"""`python -m recipeline …` is the same as `recipeline …`."""

from recipeline.cli import main

raise SystemExit(main())
