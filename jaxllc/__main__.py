"""`python -m jaxllc` is the command `jaxllc`."""

from jaxllc.cli import main

if __name__ == "__main__":
    main()
