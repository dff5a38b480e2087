"""Cross-Modal Deep Clustering: from a pile of unlabeled videos to video and audio encoders."""

__version__ = "0.1.0"
