"""Whole corpora: files, tables and iterables of any length → vectors in files; a crash loses what was in flight.

from embedwire.bulk import embed_file

report = embed_file("docs.jsonl", "vectors.parquet", "http://localhost:8080", resume=True, progress=True)
"""

from embedwire.bulk.doors import embed_file, embed_rows, estimate
from embedwire.bulk.records import Estimate, Progress, RayEngine, Report

__all__ = ["Estimate", "Progress", "RayEngine", "Report", "embed_file", "embed_rows", "estimate"]
