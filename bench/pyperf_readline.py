"""rfile and wfile of a stream: `python -m bench.pyperf_readline --impl fast`."""

from bench.inprocess import main

if __name__ == "__main__":
    main("pyperf_readline", "readline", "iterate", "read", "write")
