"""`python -m voting` and the command `voting`."""

from voting.commands.cli import main

if __name__ == "__main__":
    main()
