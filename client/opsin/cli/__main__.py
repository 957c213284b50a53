"""`python -m opsin.cli`: the same as `opsin`, for a checkout that is on the path but not installed."""

from opsin.cli import main

if __name__ == "__main__":
    main()
