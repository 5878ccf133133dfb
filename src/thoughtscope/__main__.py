"""`python -m thoughtscope` is the `thoughtscope` command."""

from thoughtscope.cli import main

if __name__ == "__main__":
    main()
