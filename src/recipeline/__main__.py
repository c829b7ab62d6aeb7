"""`python -m recipeline …` is the same as `recipeline …`."""

import sys

if __name__ == "__main__":
    try:
        from recipeline.cli import main
    except KeyboardInterrupt:  # before `main` can answer it: nothing is begun yet
        sys.stderr.write("error[interrupted]: interrupted\n")
        raise SystemExit(130) from None
    raise SystemExit(main())
