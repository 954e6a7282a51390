"""Stitching inside the pipelines of diffusers; see ``stitch_pipeline``."""

from stitch.pipelines.stitching import PipelineStitch, stitch_pipeline

__all__ = ["PipelineStitch", "stitch_pipeline"]
