"""`python -m xdc_fast`: the command `xdc`, for torchrun and where scripts are not on the path."""

from xdc_fast.tools.xdc import main

if __name__ == "__main__":
    main(prog_name="xdc")
