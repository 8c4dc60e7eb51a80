"""``python -m jstrace.cli``."""

from jstrace.cli import main

if __name__ == "__main__":
    main()
