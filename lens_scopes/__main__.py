"""`python -m lens_scopes` is the command line `lens-scopes`."""

from lens_scopes.cli import main

if __name__ == "__main__":
    main()
