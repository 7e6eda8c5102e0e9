"""patch() and unpatch(): `python -m bench.pyperf_patch`."""

import pyperf


def there_and_back(patch, unpatch):
    """What a program pays once, and a test suite often."""
    patch()
    unpatch()


if __name__ == "__main__":
    import socketserver_fast

    runner = pyperf.Runner(program_args=("-m", "bench.pyperf_patch"))
    runner.bench_func(
        "patch_unpatch", there_and_back, socketserver_fast.patch, socketserver_fast.unpatch
    )
