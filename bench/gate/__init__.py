"""Is this change slower? `python -m bench.gate --base REVISION` measures both and answers."""
