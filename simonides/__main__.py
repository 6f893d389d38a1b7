"""`python -m simonides` is `simonides`."""

from .cli import main

if __name__ == "__main__":
    main()
