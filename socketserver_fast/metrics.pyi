from collections.abc import Iterator
from typing import Any

from socketserver_fast.statistics import StatisticsMixIn

__all__ = ["Collector"]

class Collector:
    def __init__(self, server: StatisticsMixIn, name: str | None = None) -> None: ...
    def describe(self) -> list[Any]: ...
    def collect(self) -> Iterator[Any]: ...
