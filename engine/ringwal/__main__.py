"""`python -m ringwal VERB`."""

from ringwal.cli import main

if __name__ == "__main__":
    main()
