"""Faces in pictures: detection, points of the face mesh, tracks over a video."""
