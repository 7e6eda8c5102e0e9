"""Responses and log lines of http.server are those of the original methods."""

import email.utils
import http.server
import io
import string
import sys
import time

import pytest

from socketserver_fast._http import responses

Handler = http.server.BaseHTTPRequestHandler
TIMES = [0, 1, 1.5, -1.5, 999999999.999, 1.7e9, 1_700_000_000, True, 253402300799]


@pytest.fixture
def handler():
    """A handler without a connection."""
    handler = Handler.__new__(Handler)
    handler.client_address = ("192.0.2.1", 1)
    return handler


@pytest.fixture
def at(monkeypatch):
    """`at(seconds)`: it is this time."""
    localtime = time.localtime

    def travel(now):
        monkeypatch.setattr(time, "time", lambda: now)
        monkeypatch.setattr(time, "localtime", lambda seconds=now: localtime(seconds))

    return travel


@pytest.mark.parametrize("timestamp", TIMES)
def test_dates_of_a_time(handler, timestamp):
    expected = email.utils.formatdate(timestamp, usegmt=True)
    assert handler.date_time_string(timestamp) == expected
    assert handler.date_time_string(timestamp) == responses._date_time_string(handler, timestamp)


def test_the_date_goes_with_the_clock(handler, at):
    for now in (1e9, 1e9 + 0.9, 1e9 + 1.1, 1e9 + 60, 1e9):
        at(now)
        assert handler.date_time_string() == email.utils.formatdate(int(now), usegmt=True)
        assert handler.log_date_time_string() == responses._log_date_time_string(handler)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone is fixed")
def test_the_date_of_the_log_goes_with_the_time_zone(handler, at, monkeypatch):
    at(1e9)
    try:
        for zone in ("UTC", "EST5EDT", "XYZ-3", "UTC"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert handler.log_date_time_string() == responses._log_date_time_string(handler)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_month_names_of_ones_own(at):
    at(1e9)
    kind = type("Kind", (Handler,), {"monthname": [f"m{number}" for number in range(13)]})
    assert "m9/" in kind.log_date_time_string(kind.__new__(kind))


@pytest.mark.parametrize("timestamp", ["x", [], float("nan"), 1e20])
def test_what_is_no_time_is_refused_as_before(handler, timestamp):
    with pytest.raises((TypeError, ValueError, OverflowError)) as expected:
        responses._date_time_string(handler, timestamp)
    with pytest.raises(expected.type, match=r"."):
        handler.date_time_string(timestamp)


def test_log_lines_are_escaped_as_before(handler, at, monkeypatch):
    at(1e9)
    text = "".join(map(chr, range(0x250))) + string.printable + "\u2028\U0001f600"
    lines = []
    for table in (Handler._control_char_table, original_table()):
        monkeypatch.setattr(Handler, "_control_char_table", table)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        handler.log_message("%s %s", text, text[::-1])
        lines.append(sys.stderr.getvalue())
    assert lines[0] == lines[1]
    assert "\\x00" in lines[0]


def original_table():
    table = Handler._control_char_table
    return {code: text for code, text in table.items() if text != code}


def test_the_table_only_adds_what_stays_as_it_is():
    table = Handler._control_char_table
    assert {code for code, text in table.items() if text == code} == set(
        map(ord, string.printable)
    ) - set(map(ord, "\t\n\r\x0b\x0c\\"))
