"""A network behind HTTP: an image in, labels, an overlay or polygons out."""
