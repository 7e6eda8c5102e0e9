"""What http.server and wsgiref get from patch(): a request's head, a response, files."""
