"""occlift: from what foundation models see in images to 3-D supervision for surround-camera networks."""

__version__ = "0.1.0"
