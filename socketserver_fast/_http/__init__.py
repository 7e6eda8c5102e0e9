"""The compiled paths that patch() puts into http.server and wsgiref."""
