"""From masks to what an inspector and a labeller work with: each crack measured and rated, vectors, annotations."""
