"""`python main.py …` is the same as `recipeline …`."""

from recipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
