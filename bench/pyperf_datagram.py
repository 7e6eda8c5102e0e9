"""The files of a packet: `python -m bench.pyperf_datagram --impl fast`."""

from bench.inprocess import main

if __name__ == "__main__":
    main("pyperf_datagram", "datagram")
