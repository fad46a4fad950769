"""A training told in one page: what it left behind, read, evaluated and composed."""
