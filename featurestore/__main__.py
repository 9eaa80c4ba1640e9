"""`python -m featurestore`: the same as the `featurestore` command."""

from featurestore.cli import main

if __name__ == "__main__":
    main()
