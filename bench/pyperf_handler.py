"""Handler set-up, the loop and accept: `python -m bench.pyperf_handler --impl fast`."""

from bench.inprocess import main

if __name__ == "__main__":
    main("pyperf_handler", "handler", "loop", "accept")
