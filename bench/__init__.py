"""How fast is it, at what, and how do you know: see README.md in this folder."""
