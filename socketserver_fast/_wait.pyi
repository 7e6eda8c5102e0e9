native: bool
