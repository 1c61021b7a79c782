"""`python -m layermix`: the same as the command `layermix`."""

from layermix.cli import main

if __name__ == "__main__":
    main(prog_name="layermix")
