"""`python -m flashvsr_trt` is the command line, as torchrun needs it."""

from flashvsr_trt.cli.main import main

if __name__ == "__main__":
    main()
