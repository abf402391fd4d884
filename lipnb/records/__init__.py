"""Records of results: what was computed, from what, by which code."""

from lipnb.records.digest import file_digest
from lipnb.records.files import RESULTS, read_experiment, read_record, write_record
from lipnb.records.fingerprint import repository_root, snapshot, stale_files
from lipnb.records.record import make_record, synthetic_data, verdict
from lipnb.records.schema import SCHEMA, Record
from lipnb.records.tables import provenance, read_records, summarise

__all__ = [
    "RESULTS",
    "SCHEMA",
    "Record",
    "file_digest",
    "make_record",
    "provenance",
    "read_experiment",
    "read_record",
    "read_records",
    "repository_root",
    "snapshot",
    "stale_files",
    "summarise",
    "synthetic_data",
    "verdict",
    "write_record",
]
