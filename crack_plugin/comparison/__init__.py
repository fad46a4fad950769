"""Several models on the same images: settings that are equal for all, measurements by the same code, one table."""
