"""openseg: train, evaluate and sharpen semantic segmentation (OCNet family, HRNet, SegFix)."""

__version__ = "0.1.0"
