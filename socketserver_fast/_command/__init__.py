"""What a child process of `python -m socketserver_fast` finds on its PYTHONPATH."""
