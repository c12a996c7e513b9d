"""Face detectors: a luma plane goes in, boxes and eyes come out."""
