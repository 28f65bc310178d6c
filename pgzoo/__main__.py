"""`python -m pgzoo`."""

from pgzoo.cli.main import main

if __name__ == "__main__":
    main()
