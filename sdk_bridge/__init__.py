"""The seam: what crosses between devices, apps and the backend."""
